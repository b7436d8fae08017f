import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { FRAME_STYLE, FRAME_STYLE_HASH } from "../render.js";

const here = new URL("..", import.meta.url);
const read = (name) => readFileSync(new URL(name, here), "utf8");
const served = readdirSync(here).filter((name) => /\.(js|css|svg|webmanifest)$/.test(name) && name !== "sw.js");

test("the service worker keeps every file of the page", () => {
  const kept = [...read("sw.js").matchAll(/^ {2}"\/(.*)",$/gm)].map(([, name]) => name);
  assert.deepEqual(kept.toSorted(), ["", ...served].toSorted());
});

test("the frame's style has the hash that the policy allows", () => {
  assert.equal(FRAME_STYLE_HASH, `sha256-${createHash("sha256").update(FRAME_STYLE).digest("base64")}`);
});

test("the page has neither scripts nor styles nor handlers within, and nothing from elsewhere", () => {
  const html = read("index.html");
  assert.doesNotMatch(html, /<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*\ssrc=)/i);
  for (const [, address] of html.matchAll(/\s(?:src|href)="([^"]*)"/g)) assert.match(address, /^[/#][a-z]/, address);
  for (const name of served) assert.doesNotMatch(read(name), /\bimport\b[^;]*from "(?!\.\/)/, name);
});

test("every label, description and title in the page names an element that is there", () => {
  const html = read("index.html");
  const ids = new Set([...html.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => id));
  for (const [, list] of html.matchAll(/\s(?:for|aria-labelledby|aria-describedby)="([^"]*)"/g)) {
    for (const id of list.split(" ")) assert.ok(ids.has(id), id);
  }
  for (const name of ["app.js", "reader.js"]) {
    for (const [, id] of read(name).matchAll(/\b(?:byId|on)\("([^"]*)"/g)) assert.ok(ids.has(id), `${name}: ${id}`);
  }
});
