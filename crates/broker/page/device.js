// The device at work, without the page around it: takes envelopes from the stream, verifies, opens, keeps and acknowledges them,
// and asks for content.

import { concat, fromBase64Url, random, same, sha256, toBase64Url, utf8 } from "./bytes.js";
import { EnvelopeError, MAX_ANSWER, MAX_ENVELOPE, Opener, parse } from "./envelope.js";
import * as keys from "./keys.js";
import { Ledger } from "./ledger.js";
import { pack, unpack } from "./message.js";
import { Remote, RemoteError, limited, object } from "./remote.js";
import { AckCode, SKIP_REASONS, acknowledgement, fetchRequest, skip } from "./statement.js";
import { Part, eventName, lock, unlock } from "./store.js";
import { Revoked, backoff, run } from "./stream.js";

/** Most acknowledgements in one request. */
const ACKS_AT_ONCE = 64;
/** Least time between two such requests, in milliseconds. */
const PACE = 100;
/** Statuses by which a server says that a request makes no sense, and never will. */
const NEVER = [400, 413, 422];
/** Milliseconds that an answer's bytes may take. */
const ANSWER_PATIENCE = 120_000;

const seconds = () => Math.floor(Date.now() / 1000);

/**
 * An unlocked device. `tell` hears what happens:
 * `state(name, detail)` of the connection (`connecting`, `live`, `offline`, `revoked`), `arrived(message)`, `refused(error)`
 * for an envelope that did not verify, `gaps()` when what is missing changed, `unsent(error)` when acknowledgements wait.
 */
export class Device {
  #store;
  #record;
  #keys;
  #tell;
  #opener;
  #sender;
  #signing;
  #mailbox;
  #control;
  #stop = new AbortController();
  #flushing = null;
  #wanted = false;
  #failures = 0;
  #later = 0;

  /** `record`: what the store keeps; `unlocked`: the keys of [`openKeys`]. */
  static async start(store, record, unlocked, tell) {
    const device = new Device();
    const { signing, identity } = record;
    device.#store = store;
    device.#record = record;
    device.#keys = unlocked;
    device.#tell = tell;
    device.#opener = await Opener.of({ ...identity, sealing: unlocked.sealing });
    device.#sender = await keys.importPublic(identity.senderKey);
    device.#signing = signing;
    const handle = toBase64Url(identity.handle);
    device.#mailbox = new Remote(identity.mailbox, signing, handle);
    // This page comes from control, and its policy lets it speak with no other.
    device.#control = new Remote(location.origin, signing, handle);
    device.ledger = new Ledger(record.ledger);
    return device;
  }

  /** Who this device is. */
  get identity() {
    return this.#record.identity;
  }

  /** Keeps the stream up until [`Device.stop`] or a revocation. */
  async listen() {
    const { signal } = this.#stop;
    try {
      await run({
        signal,
        connect: (both) => this.#connect(both),
        take: (event) => this.#take(event),
        tell: (state, detail) => {
          this.#tell.state(state, detail);
          if (state === "live") this.#flush();
        },
      });
    } catch (error) {
      if (!(error instanceof Revoked)) throw error;
      this.#tell.state("revoked", await this.#confirm());
    }
  }

  /** Ends the stream. What is under way is given up. */
  stop() {
    this.#stop.abort();
    clearTimeout(this.#later);
  }

  async #connect(signal) {
    const headers = { Accept: "text/event-stream" };
    if (this.ledger.resume > 0) headers["Last-Event-ID"] = String(this.ledger.resume);
    try {
      return await this.#mailbox.request("GET", "/v1/stream", { headers, signal });
    } catch (error) {
      if (error instanceof RemoteError && error.reason === "revoked") throw new Revoked(error.message);
      throw error;
    }
  }

  // The hub cannot sign that a device is revoked; the organisation, which can be asked itself, knows.
  async #confirm() {
    try {
      await this.#token();
      return { confirmed: false };
    } catch (error) {
      return { confirmed: error instanceof RemoteError && [401, 403, 404, 410].includes(error.status) };
    }
  }

  async #take({ event, data }) {
    if (event === "revoked") throw new Revoked("the mailbox ended the stream");
    try {
      if (event === "envelope") await this.#envelope(bytesOf(data));
      else if (event === "skip") await this.#skip(bytesOf(data));
    } catch (error) {
      // The browser's database failed: it is taken again with the next connection.
      if (error instanceof DOMException) throw error;
      this.#tell.refused(error);
    }
  }

  async #skip(bytes) {
    const { device, from, to, reason } = await skip(bytes, this.#sender);
    if (!same(device, this.identity.handle)) throw new EnvelopeError("recipient", "a skip record for another device");
    this.ledger.explained(from, to, seconds());
    await this.#store.update({ ledger: { ...this.ledger } });
    this.#tell.gaps({ from, to, reason: SKIP_REASONS[reason] ?? "unknown" });
  }

  async #envelope(bytes) {
    const hash = await sha256(bytes);
    let verified;
    try {
      verified = await this.#opener.verify(bytes);
    } catch (error) {
      await this.#complain(bytes, hash);
      throw error;
    }
    const { sequence } = verified.header;
    if (!this.ledger.isNew(sequence)) return this.#again(verified.header, hash);
    const now = seconds();
    const taken = await this.#opened(verified, now);
    const ledger = new Ledger(this.ledger);
    ledger.seen(sequence, now);
    const { code, failure, head, body, event } = taken;
    const message = (head || failure) && { sequence, hash, code, at: now, opened: false, failure, head };
    const ack = await this.#ack(sequence, code, hash);
    await this.#store.took({ ledger: { ...ledger }, message, body, event, ack });
    this.ledger = ledger;
    this.#flush();
    if (message) this.#tell.arrived({ ...message, content: taken.content });
    this.#tell.gaps(null);
  }

  // What is to be kept of an envelope that is new, and the code to acknowledge it with.
  async #opened(verified, now) {
    const { sequence, urgency } = verified.header;
    try {
      const content = { ...(await this.#opener.openEvent(verified, now)), urgency, fetched: 0 };
      const event = eventName(await sha256(concat(utf8(content.source), Uint8Array.of(0), utf8(content.id))));
      if (await this.#store.knows(event)) return { code: AckCode.delivered };
      return { code: AckCode.delivered, content, event, ...(await this.#kept(sequence, content)) };
    } catch (error) {
      if (!(error instanceof EnvelopeError)) throw error;
      if (error.reason === "expired") return { code: AckCode.notDelivered };
      return { code: AckCode.cannotDecrypt, failure: error.message };
    }
  }

  async #kept(sequence, content) {
    const { keeping } = this.#keys;
    return {
      head: await lock(keeping, Part.head, sequence, pack(content)),
      body: await lock(keeping, Part.body, sequence, content.body),
    };
  }

  // It came before: its acknowledgement was lost, or somebody replays it. It is acknowledged again, and not shown again.
  async #again(header, hash) {
    const before = await this.#store.message(header.sequence);
    if (before && !same(before.hash, hash)) {
      throw new EnvelopeError("signature", `a second envelope with number ${header.sequence}`);
    }
    const code = before?.code ?? (header.expires < seconds() ? AckCode.notDelivered : AckCode.delivered);
    await this.#store.acknowledge(await this.#ack(header.sequence, code, hash));
    this.#flush();
  }

  // What does not verify is not counted as seen, so that the true one may still come.
  async #complain(bytes, hash) {
    let header;
    try {
      header = parse(bytes, MAX_ENVELOPE).parsed;
    } catch {
      return;
    }
    if (!same(header.device, this.identity.handle) || !this.ledger.isNew(header.sequence)) return;
    await this.#store.acknowledge(await this.#ack(header.sequence, AckCode.cannotDecrypt, hash));
    this.#flush();
  }

  #ack(sequence, code, envelope) {
    const { handle: device } = this.identity;
    return acknowledgement(this.#signing.privateKey, { device, sequence, code, envelope, at: seconds() });
  }

  // Sends what is to be acknowledged, one request at a time; what fails is tried again later, and at the next connection.
  #flush() {
    this.#wanted = true;
    this.#flushing ??= this.#send()
      .then(() => (this.#failures = 0))
      .catch((error) => {
        if (this.#stop.signal.aborted) return;
        this.#failures += 1;
        this.#tell.unsent(error);
        clearTimeout(this.#later);
        this.#later = setTimeout(() => this.#flush(), backoff(this.#failures));
      })
      .finally(() => (this.#flushing = null));
  }

  async #send() {
    while (this.#wanted) {
      this.#wanted = false;
      const pending = await this.#store.pending(ACKS_AT_ONCE);
      if (pending.length === 0) continue;
      this.#wanted = true;
      const acks = pending.map(([, bytes]) => toBase64Url(bytes));
      try {
        await this.#mailbox.request("POST", "/v1/acks", { json: { acks }, signal: this.#stop.signal });
      } catch (error) {
        // What the mailbox will never take must not keep back what comes after it.
        if (!(error instanceof RemoteError && NEVER.includes(error.status))) throw error;
        this.#tell.unsent(error);
      }
      await this.#store.sent(pending.map(([name]) => name));
      // What comes meanwhile goes together: each request takes a proof, of which a mailbox remembers few for a device.
      await new Promise((done) => setTimeout(done, PACE));
    }
  }

  /** All kept messages with their content but its body, the newest first. One that cannot be read says so in `failure`. */
  async messages() {
    const kept = await this.#store.messages();
    return Promise.all(
      kept.map(async (message) => {
        if (!message.head) return message;
        try {
          const head = await unlock(this.#keys.keeping, Part.head, message.sequence, message.head);
          return { ...message, content: unpack(head) };
        } catch {
          return { ...message, failure: "what was kept of it cannot be read with this device's key" };
        }
      }),
    );
  }

  /** The body of a message; `null`: it is not here any more. */
  async body(sequence) {
    const kept = await this.#store.body(sequence);
    return kept ? unlock(this.#keys.keeping, Part.body, sequence, kept) : null;
  }

  /** The user has seen a message. */
  async markOpened(sequence) {
    const message = await this.#store.message(sequence);
    if (!message || message.opened || message.code !== AckCode.delivered) return;
    const ack = await this.#ack(sequence, AckCode.opened, message.hash);
    await this.#store.changed({ ...message, opened: true }, null, ack);
    this.#flush();
  }

  /** Removes a message from this device. */
  remove(sequence) {
    return this.#store.remove(sequence);
  }

  /** Asks for a message's whole content, and keeps it. Resolves to the message as it is then. */
  async fetch(sequence, content, { languages, saveData }) {
    const { handle } = this.identity;
    const nonce = random(16);
    const asked = { device: handle, item: content.item, nonce, at: seconds(), accept: "", languages, saveData };
    const request = toBase64Url(await fetchRequest(this.#signing.privateKey, asked));
    const { signal } = this.#stop;
    const { grant } = await object(await this.#mailbox.request("POST", "/v1/items", { json: { request }, signal }));
    const response = await this.#mailbox.request("GET", `/v1/grants/${encodeURIComponent(grant)}`, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_PATIENCE)]),
    });
    const answer = await this.#opener.openAnswer(await limited(response, MAX_ANSWER), seconds(), nonce);
    if (answer.source !== content.source || answer.id !== content.id) {
      throw new EnvelopeError("answer", "it is another event's content than was asked for");
    }
    return this.#fetched(sequence, { ...answer, urgency: content.urgency, fetched: 1 });
  }

  async #fetched(sequence, content) {
    const before = await this.#store.message(sequence);
    if (!before) throw new EnvelopeError("answer", "the message was deleted meanwhile");
    const { head, body } = await this.#kept(sequence, content);
    const message = { ...before, head };
    await this.#store.changed(message, body, null);
    return { ...message, content };
  }

  async #token() {
    const answer = await object(await this.#control.request("POST", "/v1/token", {}));
    if (typeof answer.access_token !== "string") throw new RemoteError(200, "", "The server gave no token.");
    return answer.access_token;
  }

  /** Tells the organisation what this device can show, where it changed. */
  async updateProfile(profile) {
    const wanted = JSON.stringify(profile);
    if (wanted === this.#record.profile) return;
    await this.#control.request("PUT", "/v1/device/profile", { json: profile, token: await this.#token() });
    await this.#store.update({ profile: wanted });
    this.#record = { ...this.#record, profile: wanted };
  }

  /** Asks the organisation to revoke this device. */
  async revoke() {
    await this.#control.request("DELETE", "/v1/device", { token: await this.#token() });
  }
}

function bytesOf(data) {
  try {
    return fromBase64Url(data);
  } catch {
    throw new EnvelopeError("malformed", "the mailbox sent something that is no envelope");
  }
}
