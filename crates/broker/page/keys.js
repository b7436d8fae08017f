// Signing keys (P-256, ES256) in the forms that the protocol has: 65 bytes, JWK, thumbprint, key id.

import { fromBase64Url, sha256, toBase64Url, utf8 } from "./bytes.js";

const CURVE = { name: "ECDSA", namedCurve: "P-256" };
const ES256 = { name: "ECDSA", hash: "SHA-256" };

/** Makes a signing key that cannot be exported. */
export const generate = () => crypto.subtle.generateKey(CURVE, false, ["sign", "verify"]);

/** A public key's 65 bytes (SEC 1, uncompressed). */
export const publicBytes = async (key) => new Uint8Array(await crypto.subtle.exportKey("raw", key));

/** Reads a public key of 65 bytes. */
export const importPublic = (bytes) => crypto.subtle.importKey("raw", bytes, CURVE, true, ["verify"]);

/** Signs: r and s, 64 bytes. */
export const sign = async (privateKey, data) => new Uint8Array(await crypto.subtle.sign(ES256, privateKey, data));

/** Whether a signature of 64 bytes is good. */
export const verify = (publicKey, signature, data) => crypto.subtle.verify(ES256, publicKey, signature, data);

/** A key's id: the first eight bytes of the SHA-256 of its 65 bytes. */
export const keyId = async (bytes) => (await sha256(bytes)).slice(0, 8);

/** A public key of 65 bytes as JWK with the members that a thumbprint takes, in their order. */
export const jwk = (bytes) => ({
  crv: "P-256",
  kty: "EC",
  x: toBase64Url(bytes.subarray(1, 33)),
  y: toBase64Url(bytes.subarray(33, 65)),
});

/** RFC 7638 thumbprint: 32 bytes. */
export const thumbprint = (bytes) => sha256(utf8(JSON.stringify(jwk(bytes))));

/** The 65 bytes of a JWK. */
export function fromJwk({ x, y }) {
  return Uint8Array.of(4, ...fromBase64Url(x), ...fromBase64Url(y));
}
