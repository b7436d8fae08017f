// Hybrid public key encryption (RFC 9180), base mode, with the one suite of the protocol: DHKEM(X25519, HKDF-SHA256),
// HKDF-SHA256, AES-256-GCM. One message per context, so that its nonce is the base nonce.

import { bigEndian, concat, hmac, utf8 } from "./bytes.js";

const KEM_SUITE = concat(utf8("KEM"), bigEndian(0x0020, 2));
const SUITE = concat(utf8("HPKE"), bigEndian(0x0020, 2), bigEndian(0x0001, 2), bigEndian(0x0002, 2));
const BASE = Uint8Array.of(0);
const EMPTY = new Uint8Array(0);
const VERSION = utf8("HPKE-v1");

/** Bytes of an encapsulated key, before the ciphertext. */
export const ENCAPSULATED = 32;

/** Makes a pair of keys: `extractable` says whether the private one may be wrapped. */
export const generate = (extractable) => crypto.subtle.generateKey({ name: "X25519" }, extractable, ["deriveBits"]);

/** The 32 bytes of a public key. */
export const publicBytes = async (key) => new Uint8Array(await crypto.subtle.exportKey("raw", key));

/**
 * Opens `enc || ciphertext`. `recipient` holds the private `CryptoKey` and the public key's bytes. Throws an `OperationError`
 * where it does not open.
 */
export async function open(recipient, sealed, info, aad) {
  const shared = await decapsulate(recipient, sealed.subarray(0, ENCAPSULATED));
  const { key, nonce } = await schedule(shared, info, "decrypt");
  const opened = await crypto.subtle.decrypt(
    { name: "AES-GCM", iv: nonce, additionalData: aad },
    key,
    sealed.subarray(ENCAPSULATED),
  );
  return new Uint8Array(opened);
}

/** The secret that an encapsulated key stands for (`Decap`). */
export async function decapsulate(recipient, enc) {
  return agree(recipient.privateKey, await importPublic(enc), concat(enc, recipient.publicBytes));
}

/** Seals to a public key's bytes, as `enc || ciphertext`. `ephemeral` is for tests with known keys. */
export async function seal(recipientPublic, plaintext, info, aad, ephemeral) {
  const pair = ephemeral ?? (await generate(false));
  const enc = await publicBytes(pair.publicKey);
  const shared = await agree(pair.privateKey, await importPublic(recipientPublic), concat(enc, recipientPublic));
  const { key, nonce } = await schedule(shared, info, "encrypt");
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv: nonce, additionalData: aad }, key, plaintext);
  return concat(enc, new Uint8Array(sealed));
}

const importPublic = (bytes) => crypto.subtle.importKey("raw", bytes, { name: "X25519" }, true, []);

async function agree(privateKey, publicKey, kemContext) {
  const dh = new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: publicKey }, privateKey, 256));
  // RFC 9180, section 7.1.4; WebCrypto checks as well, where it follows its specification to the letter.
  if (dh.every((byte) => byte === 0)) throw new DOMException("a key of small order", "OperationError");
  const secret = await labeledExtract(KEM_SUITE, EMPTY, "eae_prk", dh);
  return labeledExpand(KEM_SUITE, secret, "shared_secret", kemContext, 32);
}

async function schedule(shared, info, usage) {
  const pskIdHash = await labeledExtract(SUITE, EMPTY, "psk_id_hash", EMPTY);
  const infoHash = await labeledExtract(SUITE, EMPTY, "info_hash", info);
  const context = concat(BASE, pskIdHash, infoHash);
  const secret = await labeledExtract(SUITE, shared, "secret", EMPTY);
  const raw = await labeledExpand(SUITE, secret, "key", context, 32);
  const nonce = await labeledExpand(SUITE, secret, "base_nonce", context, 12);
  const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, [usage]);
  return { key, nonce };
}

const labeledExtract = (suite, salt, label, secret) => hmac(salt, concat(VERSION, suite, utf8(label), secret));

// One block of HKDF-Expand is enough: nothing here is longer than a hash.
async function labeledExpand(suite, secret, label, info, length) {
  const labeled = concat(bigEndian(length, 2), VERSION, suite, utf8(label), info, Uint8Array.of(1));
  return (await hmac(secret, labeled)).slice(0, length);
}
