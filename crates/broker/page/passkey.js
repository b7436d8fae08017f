// The user's part of the key: a passkey whose PRF output (WebAuthn level 3, `prf`) only comes with user verification.

import { hkdf, random, toBase64Url, utf8 } from "./bytes.js";

const INFO = utf8("hawser-page/1 key wrapping");
const TIMEOUT = 120_000;
/** The bit of the authenticator's flags that says that it verified the user. */
const USER_VERIFIED = 0x04;

/** No passkey, or none that can do it. `kind`: `unsupported`, `refused`. */
export class PasskeyError extends Error {
  name = "PasskeyError";

  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** Whether this browser knows passkeys at all. Whether its authenticator has PRF only shows when one is made. */
export const available = () => typeof PublicKeyCredential === "function" && Boolean(navigator.credentials?.create);

/** Makes a passkey, and gives `{id, salt}`, to be kept in the clear. */
export async function create(user) {
  if (!available()) throw new PasskeyError("unsupported", "This browser has no passkeys.");
  const salt = random(32);
  const credential = await ask(() =>
    navigator.credentials.create({
      publicKey: {
        challenge: random(32),
        rp: { id: location.hostname, name: "Hawser" },
        user: { id: random(16), name: user, displayName: user },
        pubKeyCredParams: [
          { type: "public-key", alg: -7 },
          { type: "public-key", alg: -8 },
          { type: "public-key", alg: -257 },
        ],
        authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
        attestation: "none",
        timeout: TIMEOUT,
        extensions: { prf: { eval: { first: salt } } },
      },
    }),
  );
  const id = new Uint8Array(credential.rawId);
  if (!credential.getClientExtensionResults().prf?.enabled) {
    await forget(id);
    throw new PasskeyError("unsupported", "This browser's passkeys cannot protect a key (they lack the PRF extension).");
  }
  return { id, salt };
}

/** Asks the user to verify themselves, and derives the key that wraps the device's keys. */
export async function wrappingKey({ id, salt }) {
  const credential = await ask(() =>
    navigator.credentials.get({
      publicKey: {
        challenge: random(32),
        rpId: location.hostname,
        allowCredentials: [{ type: "public-key", id }],
        userVerification: "required",
        timeout: TIMEOUT,
        extensions: { prf: { eval: { first: salt } } },
      },
    }),
  );
  const flags = new Uint8Array(credential.response.authenticatorData)[32];
  const first = credential.getClientExtensionResults().prf?.results?.first;
  if (!first || (flags & USER_VERIFIED) === 0) {
    throw new PasskeyError("refused", "The passkey answered without verifying you. The keys stay locked.");
  }
  const raw = await hkdf(salt, new Uint8Array(first), INFO, 32);
  return crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["wrapKey", "unwrapKey"]);
}

/** Tells the authenticator that a passkey is of no use any more, where the browser can. */
export async function forget(id) {
  try {
    const unknown = { rpId: location.hostname, credentialId: toBase64Url(id) };
    await PublicKeyCredential.signalUnknownCredential?.(unknown);
  } catch {
    // Then it stays in the user's list, where they can remove it.
  }
}

async function ask(question) {
  let credential;
  try {
    credential = await question();
  } catch (error) {
    if (error instanceof DOMException) {
      throw new PasskeyError("refused", "You were not verified, or did not answer in time. The keys stay locked; try again.");
    }
    throw error;
  }
  if (!credential) throw new PasskeyError("refused", "The browser gave no passkey. Try again.");
  return credential;
}
