// The other end, for tests: a domain that seals, signs and enrols as the specification says.

import { bigEndian, concat, random, sha256, utf8 } from "../bytes.js";
import { encode } from "../cbor.js";
import * as hpke from "../hpke.js";
import * as keys from "../keys.js";
import { Context } from "../statement.js";

const AES = "AES-GCM";

async function encrypt(raw, iv, additionalData, plain) {
  const key = await crypto.subtle.importKey("raw", raw, AES, false, ["encrypt"]);
  return new Uint8Array(await crypto.subtle.encrypt({ name: AES, iv, additionalData }, key, plain));
}

/** A domain with its sender key. */
export class Domain {
  static async make(name = "acme") {
    const domain = new Domain();
    const pair = await keys.generate();
    domain.name = name;
    domain.privateKey = pair.privateKey;
    domain.senderKey = await keys.publicBytes(pair.publicKey);
    domain.senderId = await keys.keyId(domain.senderKey);
    return domain;
  }

  async sign(context, fields) {
    const payload = encode(fields);
    return encode([payload, await keys.sign(this.privateKey, concat(context, payload))]);
  }

  skip(device, from, to, reason = 0) {
    return this.sign(Context.skip, [device.handle, from, to, reason]);
  }

  certificate(device, signingKey) {
    return this.sign(Context.device, [
      this.name, device.user, device.handle, "a device", signingKey, device.sealing.publicBytes, device.epoch, 1, 2 ** 40, this.senderId,
    ]);
  }

  /** A device of this domain, with its sealing key. */
  async device(fields = {}) {
    const pair = await hpke.generate(false);
    const sealing = { privateKey: pair.privateKey, publicBytes: await hpke.publicBytes(pair.publicKey) };
    return { handle: random(16), domain: this.name, user: "alice", epoch: 1, senderKey: this.senderKey, sealing, ...fields };
  }

  /** Seals content to a device. What is given in `header`, `wrapped` and `content` takes the place of what would be right. */
  async seal(device, { sequence = 1, kind = 0, expires = 2 ** 40, header = {}, wrapped = {}, content = {}, swap } = {}) {
    const parts = {
      version: 1, suite: 1, kind, device: device.handle, sequence, epoch: device.epoch, sender: this.senderId, expires, urgency: 2,
      collapse: null, ...header,
    };
    const headerBytes = encode(Object.values(parts));
    const wrappingKey = random(32);
    const info = concat(utf8("hawser-epoch-key/1\0"), parts.device, bigEndian(parts.epoch, 4));
    const epochKey = await hpke.seal(device.sealing.publicBytes, wrappingKey, info, parts.sender);
    const contentKey = random(32);
    const plain = encode(Object.values({ ...exampleContent, ...content }));
    const ciphertext = await encrypt(contentKey, new Uint8Array(12), utf8("hawser-content/1\0"), plain);
    const inside = {
      contentKey, ciphertext: await sha256(ciphertext), domain: this.name, user: device.user, device: device.handle,
      epoch: device.epoch, answers: null, ...wrapped,
    };
    const nonce = concat(new Uint8Array(4), bigEndian(parts.sequence, 8));
    const sealed = await encrypt(wrappingKey, nonce, headerBytes, encode(Object.values(inside)));
    const fields = [headerBytes, epochKey, sealed, swap ?? ciphertext];
    const hashes = await Promise.all(fields.map(sha256));
    const signature = await keys.sign(this.privateKey, concat(utf8("hawser-envelope/1\0"), ...hashes));
    return encode([...fields, signature]);
  }
}

/** Content as a gateway makes it. */
export const exampleContent = {
  source: "/orders", id: "1", type: "order.late", subject: "An order is late", created: 1_700_000_000, mode: 0,
  contentType: "text/plain", variant: "text", body: utf8("It will come tomorrow."), item: null, size: null, padding: new Uint8Array(40),
};
