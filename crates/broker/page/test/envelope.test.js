import assert from "node:assert/strict";
import { before, test } from "node:test";

import { random, sha256, utf8 } from "../bytes.js";
import { decode, encode } from "../cbor.js";
import { EnvelopeError, MAX_ENVELOPE, Opener } from "../envelope.js";
import * as keys from "../keys.js";
import { AckCode, Context, acknowledgement, fetchRequest, skip, certificate } from "../statement.js";
import { Domain, exampleContent } from "./sealer.js";

const NOW = 1_700_000_100;
let domain;
let device;
let opener;

before(async () => {
  domain = await Domain.make();
  device = await domain.device();
  opener = await Opener.of(device);
});

const open = async (bytes, by = opener) => by.openEvent(await by.verify(bytes), NOW);

async function refused(reason, promise) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof EnvelopeError, error.stack);
    assert.equal(error.reason, reason, error.message);
    return true;
  });
}

test("the device opens what is sealed to it", async () => {
  const { padding, ...expected } = exampleContent;
  assert.deepEqual(await open(await domain.seal(device)), expected);
  assert.deepEqual(await open(await domain.seal(device, { sequence: 2 ** 33 })), expected);
});

test("each byte that is changed is noticed", async () => {
  const bytes = await domain.seal(device);
  for (let at = 0; at < bytes.length; at += 1) {
    const changed = bytes.slice();
    changed[at] ^= 1 << at % 8;
    await assert.rejects(open(changed), EnvelopeError, `byte ${at}`);
  }
});

test("what is cut, longer, or too long is refused", async () => {
  const bytes = await domain.seal(device);
  await refused("malformed", open(bytes.subarray(0, bytes.length - 1)));
  await refused("malformed", open(Uint8Array.of(...bytes, 0)));
  await refused("malformed", open(new Uint8Array(MAX_ENVELOPE + 1)));
  await refused("malformed", open(new Uint8Array(0)));
  await refused("malformed", open(encode([1, 2, 3])));
});

test("another sender, device, user, domain or epoch is refused", async () => {
  const stranger = await Domain.make();
  await refused("signature", open(await stranger.seal(device)));
  await refused("signature", open(await stranger.seal(device, { header: { sender: domain.senderId } })));
  await refused("recipient", open(await domain.seal(await domain.device())));
  await refused("seal", open(await domain.seal({ ...(await domain.device()), handle: device.handle })));
  for (const wrong of [{ user: "bob" }, { domain: "beta" }, { device: random(16) }]) {
    await refused("recipient", open(await domain.seal(device, { wrapped: wrong })));
  }
  await refused("epoch", open(await domain.seal(device, { header: { epoch: 2 } })));
  await refused("epoch", open(await domain.seal(device, { wrapped: { epoch: 2 } })));
});

test("another version, an expired one, or an answer among events is refused", async () => {
  await refused("version", open(await domain.seal(device, { header: { version: 2 } })));
  await refused("version", open(await domain.seal(device, { header: { suite: 2 } })));
  await refused("expired", open(await domain.seal(device, { expires: NOW - 1 })));
  await refused("malformed", open(await domain.seal(device, { kind: 1, sequence: 0 })));
  await refused("malformed", open(await domain.seal(device, { sequence: 0 })));
  await refused("answer", open(await domain.seal(device, { wrapped: { answers: random(16) } })));
});

test("a ciphertext that was not meant is refused, though its sender signed it", async () => {
  await refused("seal", open(await domain.seal(device, { swap: random(100) })));
  await refused("seal", open(await domain.seal(device, { wrapped: { contentKey: random(32) } })));
});

test("an answer opens for the question that was asked", async () => {
  const nonce = random(16);
  const answer = await domain.seal(device, { kind: 1, sequence: 0, wrapped: { answers: nonce } });
  assert.equal((await opener.openAnswer(answer, NOW, nonce)).id, "1");
  await refused("answer", opener.openAnswer(answer, NOW, random(16)));
  await refused("answer", opener.openAnswer(await domain.seal(device), NOW, nonce));
  const blank = await domain.seal(device, { kind: 1, sequence: 0 });
  await refused("answer", opener.openAnswer(blank, NOW, nonce));
});

test("skip records and certificates are the domain's word, each in its context", async () => {
  const sender = await keys.importPublic(domain.senderKey);
  const stranger = await keys.importPublic((await Domain.make()).senderKey);
  const record = await domain.skip(device, 3, 5, 1);
  assert.deepEqual(await skip(record, sender), { device: device.handle, from: 3, to: 5, reason: 1 });
  await assert.rejects(skip(record, stranger), /signature/);
  await assert.rejects(certificate(record, sender), /signature/);
  await assert.rejects(skip(new Uint8Array(5000), sender), /5000 bytes/);
  const proof = await certificate(await domain.certificate(device, domain.senderKey), sender);
  assert.equal(proof.user, "alice");
});

test("acknowledgements and requests are signed by the device's key, each in its context", async () => {
  const pair = await keys.generate();
  const envelope = await sha256(utf8("envelope"));
  const ack = { device: device.handle, sequence: 7, code: AckCode.delivered, envelope, at: NOW };
  const [payload, signature] = decode(await acknowledgement(pair.privateKey, ack));
  assert.deepEqual(decode(payload), [device.handle, 7, 100, envelope, NOW]);
  const over = (context) => Uint8Array.of(...context, ...payload);
  assert.ok(await keys.verify(pair.publicKey, signature, over(Context.ack)));
  assert.ok(!(await keys.verify(pair.publicKey, signature, over(Context.fetch))));
  const asked = { device: device.handle, item: random(16), nonce: random(16), at: NOW, accept: "", languages: "de", saveData: true };
  const [request] = decode(await fetchRequest(pair.privateKey, asked));
  assert.deepEqual(decode(request).slice(3), [NOW, "", "de", true]);
});
