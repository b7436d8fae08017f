// What one party signs and another checks (`spec/envelope.md`): CBOR with a signature over its context and itself.

import { concat, utf8 } from "./bytes.js";
import { encode, is, read } from "./cbor.js";
import * as keys from "./keys.js";

/** Longest signed statement in bytes. */
export const MAX_STATEMENT = 4096;

/** Contexts: each kind of statement has its own, so that no signature passes for another's. */
export const Context = {
  skip: utf8("hawser-skip/1\0"),
  ack: utf8("hawser-ack/1\0"),
  fetch: utf8("hawser-fetch/1\0"),
  device: utf8("hawser-device/1\0"),
};

/** What a device did with an envelope. */
export const AckCode = { delivered: 100, cannotDecrypt: 101, notDelivered: 102, opened: 110 };

/** Why numbers are missing, in the order of their codes. */
export const SKIP_REASONS = ["collapsed", "expired", "withdrawn", "dropped"];

const SHAPE_SKIP = {
  device: is.bytes(16),
  from: is.number(),
  to: is.number(),
  reason: is.number(),
};

const SHAPE_CERTIFICATE = {
  domain: is.text(253),
  user: is.text(128),
  device: is.bytes(16),
  name: is.text(256),
  signingKey: is.bytes(65),
  sealingKey: is.bytes(32),
  epoch: is.number(0xffffffff),
  issued: is.number(),
  expires: is.number(),
  sender: is.bytes(8),
};

/** A statement that is not signed as it should be, or says something else than it should. */
export class StatementError extends Error {
  name = "StatementError";
}

async function signed(privateKey, context, fields) {
  const payload = encode(fields);
  return encode([payload, await keys.sign(privateKey, concat(context, payload))]);
}

async function verified(bytes, publicKey, context, what, shape) {
  if (bytes.length > MAX_STATEMENT) throw new StatementError(`${what} of ${bytes.length} bytes`);
  const { payload, signature } = read(bytes, what, { payload: is.bytes(), signature: is.bytes(64) });
  if (!(await keys.verify(publicKey, signature, concat(context, payload)))) {
    throw new StatementError(`the signature of ${what} is not your organisation's`);
  }
  return read(payload, what, shape);
}

/** Signs an acknowledgement of an envelope. `at` in seconds since 1970. */
export const acknowledgement = (privateKey, { device, sequence, code, envelope, at }) =>
  signed(privateKey, Context.ack, [device, sequence, code, envelope, at]);

/** Signs a request for content; `nonce`, 16 random bytes, comes back in the answer. */
export const fetchRequest = (privateKey, { device, item, nonce, at, accept, languages, saveData }) =>
  signed(privateKey, Context.fetch, [device, item, nonce, at, accept, languages, saveData]);

/** Verifies the explanation of a gap. */
export const skip = (bytes, sender) => verified(bytes, sender, Context.skip, "a skip record", SHAPE_SKIP);

/** Verifies a device's certificate. */
export const certificate = (bytes, sender) =>
  verified(bytes, sender, Context.device, "a device certificate", SHAPE_CERTIFICATE);
