// What this device keeps in the browser's database: its keys, what it knows of itself, and the messages that were opened,
// encrypted. Signing key: always a `CryptoKey` that cannot be exported. Sealing key and the key of kept messages: wrapped under
// the passkey's key, or, where there is no such passkey, `CryptoKey`s that cannot be exported.

import { bigEndian, concat, random, toBase64Url, utf8 } from "./bytes.js";

const DATABASE = "hawser";
const VERSION = 1;
/** Most messages that are kept; the oldest go first. */
export const MAX_MESSAGES = 1000;
/** Most events that are remembered, to tell one that comes twice. */
export const MAX_EVENTS = 4096;

const SEALING = utf8("hawser-page/1 sealing key");
const KEEPING = utf8("hawser-page/1 keeping key");

/** What is kept of a message in two parts, each under a context of its own. */
export const Part = { head: utf8("hawser-page/1 message"), body: utf8("hawser-page/1 body") };
/** All that is kept in the database, by kind. */
const STORES = ["device", "messages", "bodies", "events", "acks"];

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** The database. Each method is one transaction. */
export class Store {
  #db;

  constructor(db) {
    this.#db = db;
  }

  /** Opens the database, or makes it. */
  static async open() {
    const request = indexedDB.open(DATABASE, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("device");
      db.createObjectStore("messages", { keyPath: "sequence" });
      db.createObjectStore("bodies");
      db.createObjectStore("events", { keyPath: "hash" }).createIndex("number", "number");
      db.createObjectStore("acks", { autoIncrement: true });
    };
    const db = await done(request);
    db.onversionchange = () => db.close();
    return new Store(db);
  }

  async #transact(stores, mode, work) {
    const transaction = this.#db.transaction(stores, mode, { durability: "strict" });
    const finished = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new DOMException("given up", "AbortError"));
    });
    const give = async () => work(...stores.map((name) => transaction.objectStore(name)));
    const result = give().catch((error) => {
      abort(transaction);
      throw error;
    });
    const [value] = await Promise.all([result, finished]);
    return value;
  }

  /** The device's record, or `undefined`: not enrolled. */
  device() {
    return this.#transact(["device"], "readonly", (store) => done(store.get("self")));
  }

  /** Makes this the enrolled device; all that was kept of another goes. */
  enrolled(record) {
    return this.#transact(STORES, "readwrite", (device, ...others) => {
      for (const store of [device, ...others]) store.clear();
      return done(device.put(record, "self"));
    });
  }

  /** Changes fields of the device's record. */
  update(fields) {
    return this.#transact(["device"], "readwrite", async (store) => {
      const record = await done(store.get("self"));
      if (record) await done(store.put({ ...record, ...fields }, "self"));
    });
  }

  /** Forgets everything. */
  clear() {
    return this.#transact(STORES, "readwrite", (...stores) => {
      for (const store of stores) store.clear();
    });
  }

  /**
   * Takes an envelope in: the ledger, its message (encrypted; none if it was not opened, or its event was here before) and its
   * acknowledgement, all or nothing. `event`: by what name ([`eventName`]) its event is to be known.
   */
  took({ ledger, message, body, event, ack }) {
    return this.#transact(STORES, "readwrite", async (device, messages, bodies, events, acks) => {
      const record = await done(device.get("self"));
      if (!record) throw new DOMException("the device was removed", "AbortError");
      device.put({ ...record, ledger }, "self");
      if (message) messages.put(message);
      if (body) bodies.put(body, message.sequence);
      if (event) events.put({ hash: event, number: message.sequence });
      if (ack) acks.add(ack);
      await bound(messages, [messages, bodies], MAX_MESSAGES);
      await bound(events.index("number"), [events], MAX_EVENTS);
    });
  }

  /** Whether an event was taken in before. */
  async knows(event) {
    return (await this.#transact(["events"], "readonly", (store) => done(store.getKey(event)))) !== undefined;
  }

  /** All messages, the newest first, still encrypted. */
  async messages() {
    const all = await this.#transact(["messages"], "readonly", (store) => done(store.getAll()));
    return all.reverse();
  }

  /** One message, without its body. */
  message(sequence) {
    return this.#transact(["messages"], "readonly", (store) => done(store.get(sequence)));
  }

  /** The body of a message, still encrypted. */
  body(sequence) {
    return this.#transact(["bodies"], "readonly", (store) => done(store.get(sequence)));
  }

  /** Puts a message, and its body where one is given, in place of what was there, with an acknowledgement. */
  changed(message, body, ack) {
    return this.#transact(["messages", "bodies", "acks"], "readwrite", (messages, bodies, acks) => {
      if (body) bodies.put(body, message.sequence);
      if (ack) acks.add(ack);
      return done(messages.put(message));
    });
  }

  /** Removes a message. Its event stays known. */
  remove(sequence) {
    return this.#transact(["messages", "bodies"], "readwrite", (messages, bodies) => {
      messages.delete(sequence);
      return done(bodies.delete(sequence));
    });
  }

  /** Adds an acknowledgement to those that are to be sent. */
  acknowledge(ack) {
    return this.#transact(["acks"], "readwrite", (store) => done(store.add(ack)));
  }

  /** The oldest acknowledgements that are to be sent, as `[key, bytes]`. */
  pending(count) {
    return this.#transact(["acks"], "readonly", async (store) => {
      const [names, values] = await Promise.all([done(store.getAllKeys(null, count)), done(store.getAll(null, count))]);
      return names.map((name, i) => [name, values[i]]);
    });
  }

  /** Forgets acknowledgements that were taken. */
  sent(names) {
    return this.#transact(["acks"], "readwrite", (store) => {
      for (const name of names) store.delete(name);
    });
  }
}

function abort(transaction) {
  try {
    transaction.abort();
  } catch {
    // It was over already.
  }
}

// Deletes from the front of an order, in all these stores, until it is within its bound.
async function bound(order, stores, most) {
  let over = (await done(order.count())) - most;
  if (over <= 0) return;
  await new Promise((resolve, reject) => {
    const request = order.openKeyCursor();
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor || over === 0) return resolve();
      for (const store of stores) store.delete(cursor.primaryKey);
      over -= 1;
      cursor.continue();
    };
  });
}

/**
 * Makes the sealing key and the key of kept messages. With a wrapping key they are made extractable, wrapped, and read back as
 * keys that cannot be exported. Gives `{sealed, open}`: what is kept, and the keys to work with.
 */
export async function makeKeys(wrapping) {
  const extractable = Boolean(wrapping);
  const pair = await crypto.subtle.generateKey({ name: "X25519" }, extractable, ["deriveBits"]);
  const keeping = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, extractable, ["encrypt", "decrypt"]);
  const publicBytes = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  if (!wrapping) {
    const open = { sealing: { privateKey: pair.privateKey, publicBytes }, keeping };
    return { sealed: { publicBytes, privateKey: pair.privateKey, keeping }, open };
  }
  const sealed = {
    publicBytes,
    wrappedSealing: await wrap("pkcs8", pair.privateKey, wrapping, concat(SEALING, publicBytes)),
    wrappedKeeping: await wrap("raw", keeping, wrapping, concat(KEEPING, publicBytes)),
  };
  return { sealed, open: await openKeys(sealed, wrapping) };
}

/** The keys to work with, none of which can be exported. Throws an `OperationError` where the wrapping key is another. */
export async function openKeys(sealed, wrapping) {
  const { publicBytes } = sealed;
  if (!sealed.wrappedSealing) {
    return { sealing: { privateKey: sealed.privateKey, publicBytes }, keeping: sealed.keeping };
  }
  const privateKey = await unwrap("pkcs8", sealed.wrappedSealing, wrapping, concat(SEALING, publicBytes), {
    algorithm: { name: "X25519" },
    usages: ["deriveBits"],
  });
  const keeping = await unwrap("raw", sealed.wrappedKeeping, wrapping, concat(KEEPING, publicBytes), {
    algorithm: { name: "AES-GCM" },
    usages: ["encrypt", "decrypt"],
  });
  return { sealing: { privateKey, publicBytes }, keeping };
}

async function wrap(format, key, wrapping, additionalData) {
  const iv = random(12);
  const box = await crypto.subtle.wrapKey(format, key, wrapping, { name: "AES-GCM", iv, additionalData });
  return { iv, box: new Uint8Array(box) };
}

const unwrap = (format, { iv, box }, wrapping, additionalData, { algorithm, usages }) =>
  crypto.subtle.unwrapKey(format, box, wrapping, { name: "AES-GCM", iv, additionalData }, algorithm, false, usages);

/** Encrypts a part of a message; only as this part of the message with this number it opens again. */
export async function lock(keeping, part, sequence, bytes) {
  const iv = random(12);
  const additionalData = concat(part, bigEndian(sequence, 8));
  const box = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData }, keeping, bytes);
  return { iv, box: new Uint8Array(box) };
}

/** Decrypts a part of a message. */
export async function unlock(keeping, part, sequence, { iv, box }) {
  const additionalData = concat(part, bigEndian(sequence, 8));
  return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData }, keeping, box));
}

/** How an event is remembered: a text that says nothing of it. */
export const eventName = (hash) => toBase64Url(hash);
