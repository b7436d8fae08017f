// Server-sent events over `fetch`, since `EventSource` can send no proof: a parser, and a loop that resumes and backs off.

/** Longest line of a stream, in characters: an envelope as base64url, and room. */
export const MAX_LINE = 300_000;
/** Milliseconds without a byte after which a stream counts as dead. The mailbox sends a comment every 20 s. */
export const SILENCE = 45_000;
/** Milliseconds to wait after the first failure; twice as long after each further one. */
export const FIRST_WAIT = 1_000;
/** Longest wait in milliseconds. */
export const LONGEST_WAIT = 60_000;

/** Parses a stream: `push` takes text as it comes, and gives the events that are complete, as `{event, id, data}`. */
export class Parser {
  #rest = "";
  #event = "";
  #data = [];
  #size = 0;
  #id = null;

  push(chunk) {
    // A "\r" at the end may be half of a line's end.
    const text = this.#rest + chunk;
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    if (this.#rest.length > MAX_LINE) throw new RangeError("a line of the stream is too long");
    const events = [];
    for (const line of lines) {
      const event = this.#line(line);
      if (event) events.push(event);
    }
    return events;
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return null;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "data") this.#add(value);
    return null;
  }

  #add(value) {
    this.#size += value.length + 1;
    if (this.#size > MAX_LINE) throw new RangeError("an event of the stream is too long");
    this.#data.push(value);
  }

  #dispatch() {
    const event = { event: this.#event || "message", id: this.#id, data: this.#data.join("\n") };
    const empty = this.#data.length === 0 && this.#event === "";
    this.#event = "";
    this.#data = [];
    this.#size = 0;
    return empty ? null : event;
  }
}

/** Milliseconds to wait after so many failures: doubling, and a random part so that devices do not all come at once. */
export function backoff(failures, chance = Math.random()) {
  const full = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.min(failures - 1, 16));
  return Math.round(full / 2 + (full / 2) * chance);
}

/** The mailbox says that this device is revoked. */
export class Revoked extends Error {
  name = "Revoked";
}

/**
 * Keeps a stream up until `signal` is aborted or the device is revoked.
 *
 * `connect(signal)` resolves to a `Response` that is good; `take(event)` takes one event and is awaited, so that a slow device
 * slows its stream; `tell(state, detail)` hears `connecting`, `live`, and `offline` with `{error, wait}` (milliseconds).
 */
export async function run({ connect, take, tell, signal }) {
  let failures = 0;
  while (!signal.aborted) {
    tell("connecting", {});
    let error = null;
    try {
      await once({ connect, take, signal, live: () => tell("live", {}), heard: () => (failures = 0) });
    } catch (caught) {
      if (caught instanceof Revoked) throw caught;
      error = caught;
    }
    if (signal.aborted) return;
    failures += 1;
    const wait = Math.max(backoff(failures), Math.min(error?.again ?? 0, LONGEST_WAIT));
    tell("offline", { error, wait });
    await pause(wait, signal);
  }
}

async function once({ connect, take, signal, live, heard }) {
  const dead = new AbortController();
  const either = AbortSignal.any([signal, dead.signal]);
  const watch = watchdog(() => dead.abort(new DOMException("the mailbox fell silent", "TimeoutError")));
  try {
    const response = await connect(either);
    live();
    const parser = new Parser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read().catch(broken(either));
      if (done) return;
      heard();
      watch.reset();
      for (const event of parser.push(value)) await take(event);
      watch.reset();
    }
  } finally {
    watch.stop();
    dead.abort();
  }
}

// The browser's words for a broken connection tell a user nothing.
const broken = (signal) => (error) => {
  throw signal.aborted ? signal.reason : new Error("the connection to the mailbox broke", { cause: error });
};

function watchdog(bark) {
  let timer = setTimeout(bark, SILENCE);
  return {
    reset: () => {
      clearTimeout(timer);
      timer = setTimeout(bark, SILENCE);
    },
    stop: () => clearTimeout(timer),
  };
}

// Waits; a network that comes back, or a page that is looked at again, ends it at once.
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.("online", wake);
      globalThis.document?.removeEventListener("visibilitychange", seen);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const seen = () => document.visibilityState === "visible" && wake();
    const timer = setTimeout(wake, milliseconds);
    globalThis.addEventListener?.("online", wake);
    globalThis.document?.addEventListener("visibilitychange", seen);
    signal.addEventListener("abort", wake);
  });
}
