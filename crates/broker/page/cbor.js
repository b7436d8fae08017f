// CBOR (RFC 8949), as much of it as the protocol uses: integers, byte strings, texts, arrays, null and booleans, each in its
// shortest form and of definite length. Anything else is refused.

import { concat, text, utf8 } from "./bytes.js";

const DEPTH = 8;

/** Bytes that are not the CBOR that was expected. */
export class CborError extends Error {
  name = "CborError";
}

/** Encodes integers, `Uint8Array`, texts, arrays, `null` and booleans. */
export function encode(value) {
  if (value === null) return Uint8Array.of(0xf6);
  if (value === false) return Uint8Array.of(0xf4);
  if (value === true) return Uint8Array.of(0xf5);
  if (Number.isSafeInteger(value)) return value < 0 ? head(1, -1 - value) : head(0, value);
  if (value instanceof Uint8Array) return concat(head(2, value.length), value);
  if (typeof value === "string") {
    const bytes = utf8(value);
    return concat(head(3, bytes.length), bytes);
  }
  if (Array.isArray(value)) return concat(head(4, value.length), ...value.map(encode));
  throw new CborError(`cannot encode ${typeof value}`);
}

function head(major, argument) {
  const type = major << 5;
  if (argument < 24) return Uint8Array.of(type | argument);
  const size = argument < 0x100 ? 0 : argument < 0x10000 ? 1 : argument < 0x100000000 ? 2 : 3;
  const bytes = new Uint8Array(1 + 2 ** size);
  bytes[0] = type | (24 + size);
  let rest = argument;
  for (let i = bytes.length - 1; i > 0; i -= 1) {
    bytes[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return bytes;
}

/** Reads one value that is all of `bytes`. Byte strings share their memory. */
export function decode(bytes) {
  const reader = { bytes, at: 0 };
  const value = item(reader, 0);
  if (reader.at !== bytes.length) throw new CborError(`${bytes.length - reader.at} bytes after its end`);
  return value;
}

function item(reader, depth) {
  if (depth > DEPTH) throw new CborError(`nested deeper than ${DEPTH}`);
  const first = take(reader, 1)[0];
  const major = first >> 5;
  if (major === 7) return simple(first);
  const count = argument(reader, first & 0x1f);
  switch (major) {
    case 0:
      return count;
    case 1:
      return -1 - count;
    case 2:
      return take(reader, count);
    case 3:
      return asText(take(reader, count));
    case 4:
      // Each element is at least one byte.
      if (count > reader.bytes.length - reader.at) throw new CborError("it ends within an array");
      return Array.from({ length: count }, () => item(reader, depth + 1));
    default:
      throw new CborError(`a value of major type ${major}, which the protocol does not use`);
  }
}

function simple(first) {
  if (first === 0xf6) return null;
  if (first === 0xf4) return false;
  if (first === 0xf5) return true;
  throw new CborError(`a simple value 0x${first.toString(16)}, which the protocol does not use`);
}

function argument(reader, info) {
  if (info < 24) return info;
  if (info > 27) throw new CborError("an indefinite or reserved length");
  const size = 2 ** (info - 24);
  const value = take(reader, size).reduce((sum, byte) => sum * 256 + byte, 0);
  if (!Number.isSafeInteger(value)) throw new CborError("an integer over 2^53");
  const least = info === 24 ? 24 : 2 ** (4 * size);
  if (value < least) throw new CborError("an integer that is not in its shortest form");
  return value;
}

function take(reader, length) {
  const end = reader.at + length;
  if (end > reader.bytes.length) throw new CborError("it ends too early");
  const part = reader.bytes.subarray(reader.at, end);
  reader.at = end;
  return part;
}

function asText(bytes) {
  try {
    return text(bytes);
  } catch {
    throw new CborError("a text that is not UTF-8");
  }
}

/**
 * Reads an array by a shape: an object whose keys name the elements in order and whose values check them (see [`is`]). Elements
 * beyond the shape belong to a later version of the protocol and are left alone; trailing ones that may be null may be missing.
 */
export function read(bytes, what, shape) {
  const array = decode(bytes);
  if (!Array.isArray(array)) throw new CborError(`expected ${what}, an array`);
  const entries = Object.entries(shape).map(([name, check], i) => {
    const value = i < array.length ? array[i] : null;
    if (!check(value)) throw new CborError(`${what}: its ${name} is not what was expected`);
    return [name, value];
  });
  return Object.fromEntries(entries);
}

/** Checks of elements for [`read`]. */
export const is = {
  /** A whole number from 0 to `most`. */
  number: (most = Number.MAX_SAFE_INTEGER) => (v) => Number.isInteger(v) && v >= 0 && v <= most,
  /** Bytes; exactly so many, where a length is given. */
  bytes: (length) => (v) => v instanceof Uint8Array && (length === undefined || v.length === length),
  /** A text of at most so many UTF-16 units. */
  text: (most = 65536) => (v) => typeof v === "string" && v.length <= most,
  /** A list whose elements are such. */
  list: (check) => (v) => Array.isArray(v) && v.every(check),
  /** Null, or such. */
  maybe: (check) => (v) => v === null || check(v),
};
