// A message as this device keeps it: what was opened, as CBOR, to be encrypted; its body apart, so that a list of messages does
// not need it.

import { encode, is, read } from "./cbor.js";

const SHAPE = {
  source: is.text(),
  id: is.text(),
  type: is.text(),
  subject: is.maybe(is.text()),
  created: is.number(),
  mode: is.number(2),
  contentType: is.text(256),
  variant: is.text(64),
  item: is.maybe(is.bytes(16)),
  size: is.maybe(is.number()),
  urgency: is.number(3),
  fetched: is.number(1),
};

/** Bytes of opened content without its body, with its urgency and whether it was fetched (0 or 1). */
export const pack = (content) => encode(Object.keys(SHAPE).map((name) => content[name]));

/** What was packed. */
export const unpack = (bytes) => read(bytes, "a kept message", SHAPE);
