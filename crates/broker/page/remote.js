// Requests to the mailbox and to control, each with a proof of possession.

import { prove } from "./dpop.js";

/** Milliseconds that a server may take to answer. */
export const PATIENCE = 30_000;

/**
 * A server said no. `reason` is its stable word for why, where it gave one; `message` is for people; `again`: after how many
 * milliseconds it may be asked again, where it said so.
 */
export class RemoteError extends Error {
  name = "RemoteError";

  constructor(status, reason, message, again = 0) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.again = again;
  }
}

/** No answer came: no network, no such host, no trust in its certificate, or it took too long. */
export class Unreachable extends Error {
  name = "Unreachable";
}

/** A server by its origin, with the device's key to prove who asks. */
export class Remote {
  #origin;
  #signing;
  #handle;
  #ahead = 0;

  /** `signing`: `{privateKey, publicBytes}`; `handle`: the device's, as text; not known before enrolment. */
  constructor(origin, signing, handle) {
    this.#origin = origin;
    this.#signing = signing;
    this.#handle = handle;
  }

  /**
   * One request; the response is good (2xx) or an error is thrown. Where the server finds the proof's time wrong, its clock is
   * taken as right for proofs, and the request repeated once.
   */
  async request(method, path, { json, headers = {}, token, signal, patience = PATIENCE } = {}) {
    const first = await this.#once(method, path, { json, headers, token, signal, patience });
    if (first.ok) return first;
    if (first.status !== 401 || !this.#learn(first)) throw await problem(first);
    const second = await this.#once(method, path, { json, headers, token, signal, patience });
    if (second.ok) return second;
    throw await problem(second);
  }

  async #once(method, path, { json, headers, token, signal, patience }) {
    const url = this.#origin + path;
    const sent = new Headers(headers);
    sent.set("DPoP", await prove(this.#signing, method, url, Date.now() / 1000 + this.#ahead, token));
    if (this.#handle) sent.set("Hawser-Device", this.#handle);
    if (token !== undefined) sent.set("Authorization", `DPoP ${token}`);
    if (json !== undefined) sent.set("Content-Type", "application/json");
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), patience);
    try {
      return await fetch(url, {
        method,
        headers: sent,
        body: json === undefined ? undefined : JSON.stringify(json),
        signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
        mode: "cors",
        credentials: "omit",
        cache: "no-store",
        redirect: "error",
        referrerPolicy: "no-referrer",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Unreachable(`${new URL(url).host} cannot be reached.`);
    } finally {
      // From here on the body may take as long as it needs: a stream has no end.
      clearTimeout(timer);
    }
  }

  // Seconds that the server's clock is ahead of ours; whether that is news.
  #learn(response) {
    const theirs = Date.parse(response.headers.get("Date") ?? "");
    if (Number.isNaN(theirs)) return false;
    const ahead = Math.round((theirs - Date.now()) / 1000);
    const news = Math.abs(ahead - this.#ahead) > 5;
    this.#ahead = ahead;
    return news;
  }
}

async function problem(response) {
  const type = response.headers.get("Content-Type") ?? "";
  let body = {};
  try {
    if (/^application\/(problem\+)?json\b/.test(type)) body = (await response.json()) ?? {};
  } catch {
    // A body that is cut says no more than its status.
  }
  const reason = typeof body.reason === "string" ? body.reason : "";
  const words = [body.detail, body.title].find((word) => typeof word === "string" && word !== "");
  const host = response.url ? new URL(response.url).host : "the server";
  const seconds = Number(response.headers.get("Retry-After"));
  const again = Number.isFinite(seconds) ? seconds * 1000 : 0;
  return new RemoteError(response.status, reason, words ?? `${host} answered with status ${response.status}.`, again);
}

/** Reads a JSON body of an object. */
export async function object(response) {
  const body = await response.json().catch(() => null);
  if (body === null || typeof body !== "object") {
    throw new RemoteError(response.status, "", "The server's answer is not what was expected. Is this the right address?");
  }
  return body;
}

/** Reads a body of at most `limit` bytes. */
export async function limited(response, limit) {
  const parts = [];
  let length = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > limit) {
      await reader.cancel();
      throw new RemoteError(response.status, "", `The answer is larger than ${limit} bytes, the most that this page takes.`);
    }
    parts.push(value);
  }
  const whole = new Uint8Array(length);
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}
