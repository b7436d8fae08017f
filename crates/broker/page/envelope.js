// Sealed envelopes: verify, then open, then hold against what this device knows of itself (`spec/envelope.md`).

import { bigEndian, concat, same, sha256, utf8 } from "./bytes.js";
import { CborError, is, read } from "./cbor.js";
import * as hpke from "./hpke.js";
import * as keys from "./keys.js";

/** Largest envelope in a queue, in bytes. */
export const MAX_ENVELOPE = 192 * 1024;
/** Largest answer to a request for content, in bytes. */
export const MAX_ANSWER = 16 * 1024 * 1024;
/** How content comes, in the order of its codes. */
export const MODES = ["inline", "fetch", "notice"];
/** How urgent it is, in the order of its codes. */
export const URGENCIES = ["very-low", "low", "normal", "high"];

const EVENT = 0;
const ANSWER = 1;
const CONTEXT = utf8("hawser-envelope/1\0");
const EPOCH_KEY_INFO = utf8("hawser-epoch-key/1\0");
const CONTENT_AAD = utf8("hawser-content/1\0");
const EPOCH_KEY = 80;

const SHAPE_ENVELOPE = {
  header: is.bytes(),
  epochKey: is.bytes(EPOCH_KEY),
  wrapped: is.bytes(),
  ciphertext: is.bytes(),
  signature: is.bytes(64),
};

const SHAPE_HEADER = {
  version: is.number(),
  suite: is.number(),
  kind: is.number(1),
  device: is.bytes(16),
  sequence: is.number(),
  epoch: is.number(0xffffffff),
  sender: is.bytes(8),
  expires: is.number(),
  urgency: is.number(3),
  collapse: is.maybe(is.bytes(32)),
};

const SHAPE_WRAPPED = {
  contentKey: is.bytes(32),
  ciphertext: is.bytes(32),
  domain: is.text(253),
  user: is.text(128),
  device: is.bytes(16),
  epoch: is.number(0xffffffff),
  answers: is.maybe(is.bytes(16)),
};

const SHAPE_CONTENT = {
  source: is.text(),
  id: is.text(),
  type: is.text(),
  subject: is.maybe(is.text()),
  created: is.number(),
  mode: is.number(2),
  contentType: is.text(256),
  variant: is.text(64),
  body: is.bytes(),
  item: is.maybe(is.bytes(16)),
  size: is.maybe(is.number()),
  padding: is.bytes(),
};

/**
 * An envelope that this device does not open. `reason`: `malformed`, `version`, `signature`, `recipient`, `epoch`, `expired`,
 * `seal` or `answer`.
 */
export class EnvelopeError extends Error {
  name = "EnvelopeError";

  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

/** Reads an envelope of at most `limit` bytes, and its header. Nothing is verified. */
export function parse(bytes, limit) {
  if (bytes.length > limit) {
    throw new EnvelopeError("malformed", `an envelope of ${bytes.length} bytes is over the limit of ${limit}`);
  }
  const envelope = shaped(bytes, "an envelope", SHAPE_ENVELOPE);
  const header = shaped(envelope.header, "an envelope's header", SHAPE_HEADER);
  if (header.version !== 1 || header.suite !== 1) {
    throw new EnvelopeError(
      "version",
      `an envelope of version ${header.version}, suite ${header.suite}: this page knows version 1, suite 1; load it again`,
    );
  }
  return { envelope, parsed: header };
}

function shaped(bytes, what, shape) {
  try {
    return read(bytes, what, shape);
  } catch (error) {
    if (error instanceof CborError) throw new EnvelopeError("malformed", `malformed: ${error.message}`);
    throw error;
  }
}

/**
 * Opens what is sealed to one device of one user.
 *
 * `device`: `{handle, domain, user, epoch, senderKey (65 bytes), sealing: {privateKey, publicBytes}}`.
 */
export class Opener {
  #device;
  #sender;
  #senderId;
  #epochKey = null;
  #wrappingKey = null;

  constructor(device, sender, senderId) {
    this.#device = device;
    this.#sender = sender;
    this.#senderId = senderId;
  }

  /** Reads the sender's key first. */
  static async of(device) {
    return new Opener(device, await keys.importPublic(device.senderKey), await keys.keyId(device.senderKey));
  }

  /** Verifies the signature and reads the header: what it says is the domain's word, to this device. */
  async verify(bytes, limit = MAX_ENVELOPE) {
    const { envelope, parsed: header } = parse(bytes, limit);
    if (!same(header.sender, this.#senderId)) {
      throw new EnvelopeError("signature", "it is signed by a key that is not your organisation's");
    }
    const hashes = await Promise.all(
      [envelope.header, envelope.epochKey, envelope.wrapped, envelope.ciphertext].map(sha256),
    );
    if (!(await keys.verify(this.#sender, envelope.signature, concat(CONTEXT, ...hashes)))) {
      throw new EnvelopeError("signature", "its signature does not fit: it was changed on its way, or forged");
    }
    if (!same(header.device, this.#device.handle)) {
      throw new EnvelopeError("recipient", "it is sealed to another device");
    }
    return { envelope, header };
  }

  /** Opens a verified event. `now` in seconds since 1970. Whether its number was seen before is the ledger's to say. */
  async openEvent({ envelope, header }, now) {
    if (header.kind !== EVENT || header.sequence === 0) {
      throw new EnvelopeError("malformed", "an answer where an event was expected");
    }
    return this.#open(envelope, header, now, null);
  }

  /** Verifies and opens the answer to a request with this nonce. */
  async openAnswer(bytes, now, nonce) {
    const { envelope, header } = await this.verify(bytes, MAX_ANSWER);
    if (header.kind !== ANSWER || header.sequence !== 0) {
      throw new EnvelopeError("answer", "an event where an answer was expected");
    }
    return this.#open(envelope, header, now, nonce);
  }

  async #open(envelope, header, now, nonce) {
    if (header.epoch !== this.#device.epoch) {
      throw new EnvelopeError(
        "epoch",
        `it is sealed for epoch ${header.epoch} of this device, which is in epoch ${this.#device.epoch}`,
      );
    }
    if (header.expires < now) throw new EnvelopeError("expired", "its time is over");
    const wrapped = await this.#unwrap(envelope, header);
    this.#check(wrapped, header, nonce);
    if (!same(wrapped.ciphertext, await sha256(envelope.ciphertext))) {
      throw new EnvelopeError("seal", "its content is not the one that was sealed to this device");
    }
    const key = await aesKey(wrapped.contentKey);
    const plain = await decrypt(key, new Uint8Array(12), CONTENT_AAD, envelope.ciphertext, "content");
    const { padding, ...content } = shaped(plain, "the content", SHAPE_CONTENT);
    return content;
  }

  async #unwrap(envelope, header) {
    const key = await this.#wrapping(envelope.epochKey, header);
    const nonce = concat(new Uint8Array(4), bigEndian(header.sequence, 8));
    return shaped(await decrypt(key, nonce, envelope.header, envelope.wrapped, "seal"), "the seal", SHAPE_WRAPPED);
  }

  // Many envelopes share an epoch key: the one that came last is kept.
  async #wrapping(epochKey, header) {
    if (this.#epochKey && same(this.#epochKey, epochKey)) return this.#wrappingKey;
    const info = concat(EPOCH_KEY_INFO, header.device, bigEndian(header.epoch, 4));
    let raw;
    try {
      raw = await hpke.open(this.#device.sealing, epochKey, info, header.sender);
    } catch {
      throw new EnvelopeError("seal", "it is sealed to a key that this device does not have");
    }
    if (raw.length !== 32) throw new EnvelopeError("seal", `a wrapping key of ${raw.length} bytes`);
    this.#wrappingKey = await aesKey(raw);
    this.#epochKey = epochKey.slice();
    return this.#wrappingKey;
  }

  #check(wrapped, header, nonce) {
    const { domain, user, handle } = this.#device;
    if (wrapped.domain !== domain || wrapped.user !== user || !same(wrapped.device, handle)) {
      throw new EnvelopeError("recipient", "it is meant for another user or device");
    }
    if (wrapped.epoch !== header.epoch) throw new EnvelopeError("epoch", "header and seal name different epochs");
    const fits = nonce === null ? wrapped.answers === null : wrapped.answers !== null && same(wrapped.answers, nonce);
    if (!fits) throw new EnvelopeError("answer", "it does not answer what this device asked");
  }
}

const aesKey = (raw) => crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["decrypt"]);

async function decrypt(key, iv, additionalData, ciphertext, what) {
  try {
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData }, key, ciphertext));
  } catch {
    throw new EnvelopeError("seal", `its ${what} does not open`);
  }
}
