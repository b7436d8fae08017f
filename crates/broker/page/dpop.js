// Proofs of possession (RFC 9449): each request carries a token of its own, signed by the device's key.

import { random, sha256, toBase64Url, utf8 } from "./bytes.js";
import * as keys from "./keys.js";

/** The address that a proof names: without query and fragment. */
export function target(url) {
  const { origin, pathname } = new URL(url);
  return origin + pathname;
}

/**
 * A proof for one request. `signing`: `{privateKey, publicBytes}`; `now` in seconds since 1970 by the server's clock as far as
 * it is known; `token`: an access token that the proof goes with.
 */
export async function prove(signing, method, url, now, token) {
  const header = { typ: "dpop+jwt", alg: "ES256", jwk: keys.jwk(signing.publicBytes) };
  const claims = { htm: method, htu: target(url), iat: Math.floor(now), jti: toBase64Url(random(16)) };
  if (token !== undefined) claims.ath = toBase64Url(await sha256(utf8(token)));
  const input = `${part(header)}.${part(claims)}`;
  return `${input}.${toBase64Url(await keys.sign(signing.privateKey, utf8(input)))}`;
}

const part = (value) => toBase64Url(utf8(JSON.stringify(value)));
