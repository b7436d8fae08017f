import assert from "node:assert/strict";
import { test } from "node:test";

import { bigEndian, fromBase64Url, hkdf, toBase64Url, utf8 } from "../bytes.js";
import { CborError, decode, encode, is, read } from "../cbor.js";
import * as hpke from "../hpke.js";

const hex = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16));
const toHex = (bytes) => Buffer.from(bytes).toString("hex");

test("base64url is read strictly", () => {
  for (const length of [0, 1, 2, 3, 4, 5, 100, 70_000]) {
    const bytes = new Uint8Array(length).map((_, i) => i * 7);
    assert.deepEqual(fromBase64Url(toBase64Url(bytes)), bytes);
  }
  assert.equal(toBase64Url(hex("fbff")), "-_8");
  for (const wrong of ["A", "AA==", "A+A", "AB", "AAB", "A A", "ä", null, 5]) {
    assert.throws(() => fromBase64Url(wrong), SyntaxError, String(wrong));
  }
});

test("numbers become bytes, the most significant one first", () => {
  assert.equal(toHex(bigEndian(1, 8)), "0000000000000001");
  assert.equal(toHex(bigEndian(2 ** 53 - 1, 8)), "001fffffffffffff");
});

test("HKDF gives RFC 5869's first example", async () => {
  const out = await hkdf(hex("000102030405060708090a0b0c"), hex("0b".repeat(22)), hex("f0f1f2f3f4f5f6f7f8f9"), 42);
  assert.equal(toHex(out), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
});

// RFC 8949, appendix A.
const EXAMPLES = [
  [0, "00"], [10, "0a"], [23, "17"], [24, "1818"], [100, "1864"], [1000, "1903e8"], [1_000_000, "1a000f4240"],
  [1_000_000_000_000, "1b000000e8d4a51000"], [Number.MAX_SAFE_INTEGER, "1b001fffffffffffff"], [-1, "20"], [-1000, "3903e7"],
  [false, "f4"], [true, "f5"], [null, "f6"], [hex("01020304"), "4401020304"], ["", "60"], ["ü", "62c3bc"], ["水", "63e6b0b4"],
  [[], "80"], [[1, [2, 3], [4, 5]], "8301820203820405"],
];

test("CBOR is written and read as in RFC 8949", () => {
  for (const [value, bytes] of EXAMPLES) {
    assert.equal(toHex(encode(value)), bytes);
    assert.deepEqual(decode(hex(bytes)), value);
  }
});

test("CBOR that the protocol does not use is refused", () => {
  const wrong = [
    "", "18", "1817", "190001", "1a0000ffff", "1b00000000ffffffff", "1b0020000000000000", "1bffffffffffffffff", "1c", "1f", "5f4100ff",
    "9f00ff", "a0", "a10102", "c000", "f7", "f90000", "fb0000000000000000", "ff", "4401", "61ff", "8200", "0000", "9bffffffffffffffff",
    "5affffffff", "81".repeat(20) + "00",
  ];
  for (const bytes of wrong) assert.throws(() => decode(hex(bytes)), CborError, bytes);
});

test("any bytes are refused or read, and what is read is written the same", () => {
  let state = 1;
  const next = () => (state = (state * 48271) % 0x7fffffff);
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = Uint8Array.from({ length: next() % 12 }, () => next() & 0xff);
    let value;
    try {
      value = decode(bytes);
    } catch (error) {
      assert.ok(error instanceof CborError, error.stack);
      continue;
    }
    assert.deepEqual(encode(value), bytes);
  }
});

test("arrays are read by a shape that may have grown", () => {
  const shape = { a: is.number(5), b: is.maybe(is.bytes(2)) };
  assert.deepEqual(read(encode([5, hex("0102")]), "x", shape), { a: 5, b: hex("0102") });
  assert.deepEqual(read(encode([5]), "x", shape), { a: 5, b: null });
  assert.deepEqual(read(encode([5, null, "later"]), "x", shape), { a: 5, b: null });
  for (const wrong of [[6], [], ["a"], [5, hex("01")], [5, "ab"]]) {
    assert.throws(() => read(encode(wrong), "x", shape), CborError);
  }
  assert.throws(() => read(encode(5), "x", shape), CborError);
});

// RFC 9180, appendix A.1.1. The key schedule differs by suite; that of ours is in `spec/vectors`.
const RECIPIENT = {
  private: "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
  public: "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
};

async function recipient() {
  const pkcs8 = hex(`302e020100300506032b656e04220420${RECIPIENT.private}`);
  const privateKey = await crypto.subtle.importKey("pkcs8", pkcs8, { name: "X25519" }, false, ["deriveBits"]);
  return { privateKey, publicBytes: hex(RECIPIENT.public) };
}

test("HPKE's key encapsulation gives RFC 9180's shared secret", async () => {
  const enc = hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
  const secret = await hpke.decapsulate(await recipient(), enc);
  assert.equal(toHex(secret), "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc");
});

test("HPKE opens what it seals, for the same info and data only", async () => {
  const to = await recipient();
  const [message, info, aad] = [utf8("message"), utf8("info"), utf8("aad")];
  const sealed = await hpke.seal(to.publicBytes, message, info, aad);
  assert.equal(sealed.length, 32 + message.length + 16);
  assert.deepEqual(await hpke.open(to, sealed, info, aad), message);
  await assert.rejects(hpke.open(to, sealed, utf8("other"), aad));
  await assert.rejects(hpke.open(to, sealed, info, utf8("other")));
  for (const at of [0, 31, 32, sealed.length - 1]) {
    const changed = sealed.slice();
    changed[at] ^= 1;
    await assert.rejects(hpke.open(to, changed, info, aad));
  }
});

test("HPKE refuses a key of small order", async () => {
  const sealed = new Uint8Array(80);
  await assert.rejects(hpke.open(await recipient(), sealed, new Uint8Array(0), new Uint8Array(0)));
  await assert.rejects(hpke.seal(new Uint8Array(32), utf8("m"), new Uint8Array(0), new Uint8Array(0)));
});
