import assert from "node:assert/strict";
import { test } from "node:test";

import { fromBase64Url, random, sha256, toBase64Url, utf8 } from "../bytes.js";
import { encode } from "../cbor.js";
import { prove, target } from "../dpop.js";
import * as enrol from "../enrol.js";
import * as keys from "../keys.js";
import { GRACE, Ledger, MAX_GAPS } from "../ledger.js";
import { MAX_LINE, Parser, Revoked, backoff, run } from "../stream.js";
import { Domain } from "./sealer.js";

test("a ledger takes each number once and knows what is missing", () => {
  const ledger = new Ledger();
  for (const number of [1, 2, 5]) {
    assert.ok(ledger.isNew(number));
    ledger.seen(number, 100);
    assert.ok(!ledger.isNew(number));
  }
  assert.equal(ledger.resume, 2);
  assert.equal(ledger.withheld(100), 0);
  assert.equal(ledger.next(100), 100 + GRACE);
  assert.equal(ledger.withheld(100 + GRACE), 2);
  ledger.seen(4, 101);
  assert.ok(ledger.isNew(3));
  assert.equal(ledger.withheld(100 + GRACE), 1);
  ledger.explained(3, 3, 102);
  assert.equal(ledger.resume, 5);
  assert.equal(ledger.withheld(1e9), 0);
  ledger.explained(8, 9, 103);
  assert.deepEqual({ ...ledger }, { last: 9, gaps: [{ from: 6, to: 7, since: 103 }], lost: 0 });
  assert.deepEqual(new Ledger(JSON.parse(JSON.stringify(ledger))), ledger);
});

test("a ledger's memory is bounded, and what it gives up stays missing", () => {
  const ledger = new Ledger();
  for (let number = 2; number <= 2 * (MAX_GAPS + 10); number += 2) ledger.seen(number, 1);
  assert.equal(ledger.gaps.length, MAX_GAPS);
  assert.equal(ledger.withheld(1 + GRACE), MAX_GAPS + 10);
  assert.ok(!ledger.isNew(1));
  assert.ok(ledger.isNew(ledger.last - 1));
});

test("a stream is parsed however it is cut", () => {
  const text =
    ': hello\n\nevent: envelope\nid: 7\ndata: AAA\n\nevent: skip\r\nid: 9\r\ndata: B\r\ndata: C\r\n\r\nretry: 5\n\nevent: revoked\n\ndata:x\n\nevent: late\n';
  const expected = [
    { event: "envelope", id: "7", data: "AAA" },
    { event: "skip", id: "9", data: "B\nC" },
    { event: "revoked", id: "9", data: "" },
    { event: "message", id: "9", data: "x" },
  ];
  for (let size = 1; size <= text.length; size += 1) {
    const parser = new Parser();
    const events = [];
    for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
    assert.deepEqual(events, expected, `in pieces of ${size}`);
  }
});

test("a stream's lines and events are bounded", () => {
  assert.throws(() => new Parser().push("x".repeat(MAX_LINE + 1)), RangeError);
  const parser = new Parser();
  const line = `data: ${"x".repeat(1000)}\n`;
  assert.throws(() => {
    for (let i = 0; i < 1000; i += 1) parser.push(line);
  }, RangeError);
});

test("waits grow to a bound and differ", () => {
  assert.equal(backoff(1, 0), 500);
  assert.equal(backoff(1, 1), 1000);
  assert.equal(backoff(4, 1), 8000);
  assert.equal(backoff(50, 1), 60_000);
});

const response = (text) => new Response(new Blob([text]).stream());

test("a stream that ends is tried again, and a revocation ends it for good", async () => {
  const said = [];
  const answers = [response("event: a\ndata: 1\n\n"), new Error("down"), response("event: revoked\n\n")];
  const running = run({
    signal: new AbortController().signal,
    connect: async () => {
      const next = answers.shift();
      if (next instanceof Error) throw next;
      return next;
    },
    take: async ({ event }) => {
      said.push(event);
      if (event === "revoked") throw new Revoked();
    },
    tell: (state, { error }) => said.push(error ? `${state}: ${error.message}` : state),
  });
  await assert.rejects(running, Revoked);
  assert.deepEqual(said, [
    "connecting", "live", "a", "offline", "connecting", "offline: down", "connecting", "live", "revoked",
  ]);
});

test("a server that says when it may be asked again is not asked before", async () => {
  const stop = new AbortController();
  const waits = [];
  await run({
    signal: stop.signal,
    connect: async () => Promise.reject(Object.assign(new Error("busy"), { again: 30_000 })),
    take: async () => {},
    tell: (state, { wait }) => {
      if (state !== "offline") return;
      waits.push(wait);
      setTimeout(() => stop.abort());
    },
  });
  assert.deepEqual(waits, [30_000]);
});

test("a stopped stream ends while it waits", async () => {
  const stop = new AbortController();
  await run({
    signal: stop.signal,
    connect: async () => Promise.reject(new Error("down")),
    take: async () => {},
    tell: (state) => state === "offline" && setTimeout(() => stop.abort()),
  });
});

test("a proof is a JWT over method, address and token", async () => {
  const pair = await keys.generate();
  const signing = { privateKey: pair.privateKey, publicBytes: await keys.publicBytes(pair.publicKey) };
  const [header, claims, signature] = (await prove(signing, "GET", "https://m.example:8443/v1/stream?x=1#y", 1234.9, "token")).split(".");
  const json = (part) => JSON.parse(new TextDecoder().decode(fromBase64Url(part)));
  assert.deepEqual(json(header), { typ: "dpop+jwt", alg: "ES256", jwk: keys.jwk(signing.publicBytes) });
  const { jti, ...rest } = json(claims);
  assert.deepEqual(rest, {
    htm: "GET",
    htu: "https://m.example:8443/v1/stream",
    iat: 1234,
    ath: toBase64Url(await sha256(utf8("token"))),
  });
  assert.equal(fromBase64Url(jti).length, 16);
  assert.ok(await keys.verify(pair.publicKey, fromBase64Url(signature), utf8(`${header}.${claims}`)));
  assert.equal(target("https://m.example/a"), "https://m.example/a");
});

test("a thumbprint is RFC 7638's", async () => {
  // The key of RFC 7515, appendix A.3.
  const bytes = keys.fromJwk({ x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
  assert.equal(toBase64Url(await keys.thumbprint(bytes)), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
});

async function enrolment() {
  const domain = await Domain.make();
  const device = await domain.device();
  const pair = await keys.generate();
  const made = { signingKey: await keys.publicBytes(pair.publicKey), sealingKey: device.sealing.publicBytes };
  const fields = [random(16), random(16), domain.name, random(32)];
  const text = `https://devices.acme.example/enrol#v1.${toBase64Url(encode(fields))}`;
  const link = enrol.parseLink(text);
  const request = enrol.request(link, { ...made, name: "  My\nbrowser ", profile: { schema: 1 } });
  const answer = async (changes = {}, by = link) => {
    const parts = {
      certificate: await domain.certificate(device, made.signingKey), sender: domain.senderKey, user: "alice", device: device.handle,
      mailbox: "https://mail.example", pin: null, control: "https://devices.acme.example", at: 1, ...changes,
    };
    const bytes = encode(Object.values(parts));
    return { answer: toBase64Url(bytes), mac: toBase64Url(await enrol.answerMac(by, request, bytes)) };
  };
  return { domain, device, made, link, text, request, answer };
}

test("an enrolment's answer is taken from who made the link, and from nobody else", async () => {
  const { device, made, link, request, answer } = await enrolment();
  const identity = await enrol.accept(link, request, made, await answer());
  assert.deepEqual([identity.user, identity.domain, identity.epoch], ["alice", "acme", 1]);
  assert.deepEqual(identity.handle, device.handle);
  assert.match(await enrol.checkNumber(link, request), /^\d{6}$/);
  const other = await enrolment();
  const wrong = [
    await answer({}, { ...link, secret: random(16) }),
    await answer({ user: "bob" }),
    await answer({ device: random(16) }),
    await answer({ sender: other.domain.senderKey }),
    await answer({ certificate: await other.domain.certificate(device, made.signingKey) }),
    await answer({ mailbox: "http://mail.example" }),
    await answer({ at: 2 ** 41 }),
    { answer: "?", mac: "" },
    {},
  ];
  for (const each of wrong) await assert.rejects(enrol.accept(link, request, made, each), Error);
  await assert.rejects(enrol.accept(link, request, other.made, await answer()), /something else/);
});

test("a link is read whole or not at all", async () => {
  const { text, link } = await enrolment();
  assert.deepEqual(enrol.parseLink(` ${text}\n`), link);
  assert.deepEqual(enrol.parseLink(text.split("#")[1]), link);
  for (const wrong of ["", "x", text.slice(0, -2), text.replace("v1.", "v2."), "https://devices.acme.example/enrol", "#v1.AAAA"]) {
    assert.throws(() => enrol.parseLink(wrong), enrol.EnrolmentError, wrong);
  }
});

test("a device's name is one line", () => {
  assert.equal(enrol.cleanName(" a\r\nb\u2028c\u0007 "), "a b c");
  assert.equal([...enrol.cleanName("水".repeat(100))].length, enrol.MAX_NAME);
});
