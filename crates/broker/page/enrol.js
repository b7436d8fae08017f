// How this device gets to know its organisation (`spec/device-protocol.md`): the link's fragment holds a one-time secret, and
// request and answer each carry an HMAC under a key derived from it.

import { concat, fromBase64Url, hkdf, hmac, same, sha256, toBase64Url, utf8 } from "./bytes.js";
import { encode, is, read } from "./cbor.js";
import * as keys from "./keys.js";
import { certificate } from "./statement.js";

/** Longest name of a device in characters. */
export const MAX_NAME = 64;

const REQUEST_KEY = utf8("hawser-enrolment/1 request");
const ANSWER_KEY = utf8("hawser-enrolment/1 answer");
const CHECK_NUMBER = utf8("hawser-enrolment/1 check");

const SHAPE_FRAGMENT = {
  enrolment: is.bytes(16),
  secret: is.bytes(16),
  domain: is.text(253),
  root: is.bytes(32),
};

const SHAPE_ANSWER = {
  certificate: is.bytes(),
  senderKey: is.bytes(65),
  user: is.text(128),
  device: is.bytes(16),
  mailbox: is.text(2048),
  hubPin: is.maybe(is.bytes(32)),
  control: is.text(2048),
  at: is.number(),
};

/** An enrolment that cannot go on. Its message is for the user. */
export class EnrolmentError extends Error {
  name = "EnrolmentError";
}

/** Reads the part of a link behind `#`, or the whole link. */
export function parseLink(link) {
  const fragment = link.trim().split("#").pop();
  try {
    if (!fragment.startsWith("v1.")) throw new SyntaxError("expected v1.");
    return read(fromBase64Url(fragment.slice(3)), "an enrolment link", SHAPE_FRAGMENT);
  } catch {
    throw new EnrolmentError(
      "This is not a whole enrolment link. It begins with https:// and ends with a long text after “#v1.”: copy all of it, or ask your administrator for a new one.",
    );
  }
}

/** A device's name as the protocol allows it: one line, without control characters, not too long. */
export const cleanName = (name) =>
  [...name.replace(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, " ").trim()].slice(0, MAX_NAME).join("");

/** The request's CBOR. `profile` is an object, sent as JSON. */
export const request = (link, { signingKey, sealingKey, name, profile }) =>
  encode([link.enrolment, signingKey, sealingKey, cleanName(name), JSON.stringify(profile)]);

const derive = (link, info, length) => hkdf(link.enrolment, link.secret, info, length);

/** HMAC of a request. */
export const requestMac = async (link, requestBytes) => hmac(await derive(link, REQUEST_KEY, 32), requestBytes);

/** HMAC of the answer to a request. */
export const answerMac = async (link, requestBytes, answerBytes) =>
  hmac(await derive(link, ANSWER_KEY, 32), concat(await sha256(requestBytes), answerBytes));

/** Six digits that both ends reckon from secret and request. */
export async function checkNumber(link, requestBytes) {
  const bytes = await derive(link, concat(CHECK_NUMBER, await sha256(requestBytes)), 4);
  const number = bytes.reduce((sum, byte) => sum * 256 + byte, 0) % 1_000_000;
  return number.toString().padStart(6, "0");
}

/** What is posted to `/v1/devices`. */
export const message = async (link, requestBytes) => ({
  request: toBase64Url(requestBytes),
  mac: toBase64Url(await requestMac(link, requestBytes)),
});

/**
 * Checks the answer: its HMAC, the certificate's signature, and that it certifies these keys for this domain. Gives what the
 * device keeps.
 */
export async function accept(link, requestBytes, { signingKey, sealingKey }, answered) {
  const { bytes, mac } = fields(answered);
  if (!same(mac, await answerMac(link, requestBytes, bytes))) {
    throw new EnrolmentError("The answer does not come from who made the link. Do not use this page; tell your administrator.");
  }
  const answer = read(bytes, "the answer to the enrolment", SHAPE_ANSWER);
  const proof = await certificate(answer.certificate, await keys.importPublic(answer.senderKey));
  const fits =
    same(proof.signingKey, signingKey) &&
    same(proof.sealingKey, sealingKey) &&
    same(proof.device, answer.device) &&
    same(proof.sender, await keys.keyId(answer.senderKey)) &&
    proof.user === answer.user &&
    proof.issued <= answer.at &&
    answer.at < proof.expires &&
    proof.domain === link.domain;
  if (!fits) {
    throw new EnrolmentError("The answer certifies something else than this device. Tell your administrator.");
  }
  return {
    handle: answer.device,
    domain: proof.domain,
    user: answer.user,
    name: proof.name,
    epoch: proof.epoch,
    senderKey: answer.senderKey,
    certificate: answer.certificate,
    mailbox: address(answer.mailbox, "mailbox"),
    control: address(answer.control, "control"),
  };
}

function fields(answered) {
  try {
    return { bytes: fromBase64Url(answered.answer), mac: fromBase64Url(answered.mac) };
  } catch {
    throw new EnrolmentError("The server's answer is not an enrolment's. Is this the right address?");
  }
}

function address(text, what) {
  if (URL.canParse?.(text) !== false && new URL(text).protocol === "https:") return new URL(text).origin;
  throw new EnrolmentError(`The ${what}'s address ${JSON.stringify(text)} is not one that begins with https://. Tell your administrator.`);
}
