// The specification's vectors, which the other implementation made, against this page's modules.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { concat, fromBase64Url, sha256, toBase64Url, utf8 } from "../bytes.js";
import { decode, encode } from "../cbor.js";
import { target } from "../dpop.js";
import * as enrol from "../enrol.js";
import { EnvelopeError, MODES, Opener } from "../envelope.js";
import * as hpke from "../hpke.js";
import * as keys from "../keys.js";
import { Context, acknowledgement, certificate, fetchRequest, skip } from "../statement.js";

const vectors = new URL("../../../../spec/vectors/", import.meta.url);
const load = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, vectors), "utf8"));
const bytes = fromBase64Url;
const maybe = (text) => (text === null ? null : bytes(text));
const { sender, device } = load("keys");

const PKCS8_X25519 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20);

async function sealing() {
  const pkcs8 = concat(PKCS8_X25519, bytes(device.sealing_private));
  const privateKey = await crypto.subtle.importKey("pkcs8", pkcs8, { name: "X25519" }, false, ["deriveBits"]);
  return { privateKey, publicBytes: bytes(device.sealing_public) };
}

const signingKey = () =>
  crypto.subtle.importKey("pkcs8", bytes(device.signing_pkcs8), { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);

async function opener({ recipient }) {
  const { domain, user, epoch } = recipient;
  const senderKey = bytes(sender.signing_public);
  return Opener.of({ handle: bytes(recipient.device), domain, user, epoch, senderKey, sealing: await sealing() });
}

test("keys have these ids and thumbprints", async () => {
  for (const each of [sender, device]) {
    const key = bytes(each.signing_public);
    assert.deepEqual(keys.jwk(key), each.signing_jwk);
    assert.deepEqual(keys.fromJwk(each.signing_jwk), key);
    assert.equal(toBase64Url(await keys.keyId(key)), each.key_id);
    assert.equal(toBase64Url(await keys.thumbprint(key)), each.thumbprint);
  }
});

test("good envelopes open to this content", async () => {
  const file = load("envelope");
  const by = await opener(file);
  for (const { name, envelope, content, nonce, sha256: hash } of file.good) {
    const raw = bytes(envelope);
    assert.equal(toBase64Url(await sha256(raw)), hash, name);
    const opened = nonce ? await by.openAnswer(raw, file.now, bytes(nonce)) : await by.openEvent(await by.verify(raw), file.now);
    const { content_type: contentType, ...rest } = content;
    const expected = { ...rest, contentType, mode: MODES.indexOf(rest.mode), body: bytes(rest.body), item: maybe(rest.item) };
    assert.deepEqual(opened, expected, name);
  }
});

test("each step on the way is as the vectors say", async () => {
  const key = await sealing();
  for (const { steps } of load("envelope").good) {
    const enc = bytes(steps.hpke.enc);
    assert.equal(toBase64Url(await hpke.decapsulate(key, enc)), steps.hpke.shared_secret);
    const sealed = concat(enc, bytes(steps.hpke.sealed));
    const opened = await hpke.open(key, sealed, bytes(steps.hpke.info), bytes(steps.hpke.aad));
    assert.equal(toBase64Url(opened), steps.wrapping_key);
  }
});

const REASONS = {
  Signature: "signature",
  Device: "recipient",
  Recipient: "recipient",
  Epoch: "epoch",
  Sealed: "seal",
  Expired: "expired",
  Kind: "malformed",
  Malformed: "malformed",
};

test("bad envelopes are refused for the reason that the vectors give", async () => {
  const file = load("envelope");
  const by = await opener(file);
  assert.ok(file.bad.length > 10);
  for (const { name, envelope, error } of file.bad) {
    const opening = async () => by.openEvent(await by.verify(bytes(envelope)), file.now);
    await assert.rejects(opening, (thrown) => {
      assert.ok(thrown instanceof EnvelopeError, `${name}: ${thrown.stack}`);
      assert.equal(thrown.reason, REASONS[error], `${name}: ${thrown.message}`);
      return true;
    });
  }
});

test("statements are verified as signed, and written as signed", async () => {
  const file = load("statements");
  const by = await keys.importPublic(bytes(sender.signing_public));
  const skipped = await skip(bytes(file.skip.signed), by);
  assert.deepEqual(skipped, { ...file.skip.value, device: bytes(file.skip.value.device) });
  const proof = await certificate(bytes(file.device_certificate.signed), by);
  const { value } = file.device_certificate;
  assert.deepEqual([proof.domain, proof.user, proof.name, proof.epoch], [value.domain, value.user, value.name, value.epoch]);
  assert.equal(toBase64Url(proof.sealingKey), value.sealing_key);

  const own = await keys.importPublic(bytes(device.signing_public));
  const { acknowledgement: ack, fetch_request: asked } = file;
  for (const [kind, { signed }] of [["ack", ack], ["fetch", asked]]) {
    const [payload, signature] = decode(bytes(signed));
    assert.ok(await keys.verify(own, signature, concat(Context[kind], payload)), kind);
  }
  const key = await signingKey();
  const a = { ...ack.value, device: bytes(ack.value.device), envelope: bytes(ack.value.envelope) };
  assert.equal(toBase64Url(decode(await acknowledgement(key, a))[0]), ack.payload);
  const { accept_language: languages, save_data: saveData, ...rest } = asked.value;
  const f = { ...rest, languages, saveData, device: bytes(rest.device), item: bytes(rest.item), nonce: bytes(rest.nonce) };
  assert.equal(toBase64Url(decode(await fetchRequest(key, f))[0]), asked.payload);
});

test("an enrolment has these MACs and this check number, and its answer is accepted", async () => {
  const file = load("enrolment");
  const link = enrol.parseLink(`https://devices.acme.example/enrol#${file.fragment}`);
  const { enrolment, secret, root, domain } = file.fragment_value;
  assert.deepEqual(link, { enrolment: bytes(enrolment), secret: bytes(secret), domain, root: bytes(root) });
  const request = bytes(file.request);
  const [, signing, sealed, name, profile] = decode(request);
  const made = { signingKey: signing, sealingKey: sealed };
  assert.deepEqual([name, profile], [file.request_value.name, file.request_value.profile]);
  assert.deepEqual(encode([link.enrolment, signing, sealed, name, profile]), request);
  const said = JSON.parse(profile);
  if (JSON.stringify(said) === profile) assert.deepEqual(enrol.request(link, { ...made, name, profile: said }), request);
  assert.equal(toBase64Url(await enrol.requestMac(link, request)), file.request_mac);
  assert.equal(await enrol.checkNumber(link, request), file.check_number);
  const identity = await enrol.accept(link, request, made, { answer: file.answer, mac: file.answer_mac });
  const { user, mailbox, control, device: handle } = file.answer_value;
  assert.deepEqual([identity.user, identity.mailbox, identity.control], [user, mailbox, control]);
  assert.deepEqual(identity.handle, bytes(handle));
});

test("a proof of the other implementation is one that this page could have made", async () => {
  const file = load("dpop");
  const own = await keys.importPublic(bytes(device.signing_public));
  for (const { proof, method, url, token } of [file.alone, file.with_token]) {
    const [header, claims, signature] = proof.split(".");
    const json = (part) => JSON.parse(new TextDecoder().decode(bytes(part)));
    assert.ok(await keys.verify(own, bytes(signature), utf8(`${header}.${claims}`)));
    assert.deepEqual(json(header), { typ: "dpop+jwt", alg: "ES256", jwk: device.signing_jwk });
    const { jti, ...rest } = json(claims);
    const expected = { htm: method, htu: target(url), iat: file.now };
    if (token) expected.ath = toBase64Url(await sha256(utf8(token)));
    assert.deepEqual(rest, expected);
    assert.ok(jti);
  }
});
