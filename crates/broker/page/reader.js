// The list of messages and the pane that shows one.

import { MODES, URGENCIES } from "./envelope.js";
import { render } from "./render.js";
import { size } from "./words.js";

const byId = (id) => document.getElementById(id);
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const time = (seconds) => when.format(new Date(seconds * 1000));

/** A line that stands for a message. */
export const subjectOf = (message) =>
  message.content ? message.content.subject || message.content.type : "A message that could not be opened";

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function button(text, className, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", () => act(made));
  return made;
}

/**
 * Shows messages. `actions`: `body(message)`, `opened(message)`, `fetch(message)` and `remove(message)`, each a promise, and
 * `failed(error)`.
 */
export class Reader {
  #actions;
  #messages = [];
  #chosen = null;
  #release = () => {};

  constructor(actions) {
    this.#actions = actions;
    byId("back").addEventListener("click", () => this.close());
    byId("list").addEventListener("keydown", (event) => this.#move(event));
    byId("reader").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  /** Shows these, the newest first. */
  show(messages) {
    this.#messages = messages;
    this.#chosen = null;
    this.#list();
    this.#blank();
  }

  /** Adds one that has just come. */
  add(message) {
    this.#messages.unshift(message);
    byId("empty").hidden = true;
    byId("list").prepend(element("li", "", this.#item(message)));
  }

  /** Opens the message with this number, if it is here. */
  async open(sequence) {
    const message = this.#messages.find((each) => each.sequence === sequence);
    if (message) await this.#choose(message);
  }

  /** Back to the list, on small screens. The focus goes where it came from. */
  close() {
    byId("view-messages").classList.remove("reading");
    const item = byId("list").querySelector('[aria-current="true"]');
    (item ?? byId("list-title")).focus();
  }

  #list() {
    const focused = document.activeElement?.closest?.(".item")?.dataset.sequence;
    byId("empty").hidden = this.#messages.length > 0;
    byId("list").replaceChildren(...this.#messages.map((message) => element("li", "", this.#item(message))));
    if (focused !== undefined) byId("list").querySelector(`[data-sequence="${focused}"]`)?.focus();
  }

  #item(message) {
    const { content, failure, opened, sequence, at } = message;
    const item = button("", `item${opened || failure ? "" : " new"}`, () => this.#choose(message));
    item.dataset.sequence = sequence;
    item.setAttribute("aria-current", String(this.#chosen?.sequence === sequence));
    const meta = element("span", "meta", element("span", "", time(content?.created ?? at)));
    if (!opened && !failure) meta.append(element("span", "tag new", "new"));
    if (failure) meta.append(element("span", "tag", "not opened"));
    if (content && URGENCIES[content.urgency] === "high") meta.append(element("span", "tag", "urgent"));
    item.append(element("span", "subject", subjectOf(message)), meta);
    return item;
  }

  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const items = [...byId("list").querySelectorAll(".item")];
    const next = items[items.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  #blank() {
    this.#release();
    this.#release = () => {};
    byId("view-messages").classList.remove("reading");
    byId("reader-title").textContent = "No message chosen";
    byId("reader-body").replaceChildren(element("p", "help", "Choose a message from the list."));
  }

  async #choose(message) {
    this.#chosen = message;
    await this.#draw(message);
    byId("view-messages").classList.add("reading");
    byId("reader-title").focus();
    if (message.opened || message.failure) return;
    message.opened = true;
    this.#list();
    await this.#actions.opened(message).catch((error) => this.#actions.failed(error));
  }

  async #draw(message) {
    const body = message.content ? await this.#actions.body(message).catch(() => null) : null;
    if (this.#chosen !== message) return;
    this.#release();
    this.#release = () => {};
    byId("reader-title").textContent = subjectOf(message);
    const parts = [facts(message)];
    if (message.failure) parts.push(element("p", "note bad", `It could not be opened: ${message.failure}.`));
    else if (body === null) parts.push(element("p", "note bad", "Its content is not kept here any more."));
    else parts.push(...this.#content(message, body));
    parts.push(button("Delete from this device", "danger", () => this.#remove(message)));
    byId("reader-body").replaceChildren(...parts);
  }

  #content(message, body) {
    const { content } = message;
    const parts = [];
    if (content.variant === "safe-text") {
      parts.push(element("p", "note", "This is the text alone: the original could not be converted safely for this device."));
    }
    if (body.length > 0) {
      const shown = render({ ...content, body });
      this.#release = shown.release;
      parts.push(element("div", "content", shown.element));
    } else if (MODES[content.mode] === "notice") {
      parts.push(element("p", "note", "This is only a notice: the content is where it was made, not here."));
    }
    if (content.item && !content.fetched) parts.push(this.#offer(message));
    return parts;
  }

  #offer(message) {
    const { content } = message;
    const whole = MODES[content.mode] === "fetch" ? "What you see is a summary." : "What you see was shortened.";
    const much = content.size === null ? "" : ` (${size(content.size)})`;
    const ask = button(`Get all of it${much}`, "main", () => this.#fetch(message, ask));
    return element("p", "row", element("span", "help", `${whole} All of it is asked for now, and you must still be allowed to see it.`), ask);
  }

  async #fetch(message, ask) {
    ask.disabled = true;
    ask.textContent = "Getting it…";
    try {
      const fetched = await this.#actions.fetch(message);
      Object.assign(message, fetched, { opened: true });
      if (this.#chosen === message) {
        await this.#draw(message);
        byId("reader-title").focus();
      }
    } catch (error) {
      ask.disabled = false;
      ask.textContent = "Try again to get all of it";
      this.#actions.failed(error);
    }
  }

  async #remove(message) {
    try {
      if (!(await this.#actions.remove(message))) return;
    } catch (error) {
      return this.#actions.failed(error);
    }
    const at = this.#messages.indexOf(message);
    this.#messages = this.#messages.filter((each) => each !== message);
    this.#chosen = null;
    this.#list();
    this.#blank();
    (byId("list").querySelectorAll(".item")[Math.min(at, this.#messages.length - 1)] ?? byId("list-title")).focus();
  }
}

function facts({ content, at }) {
  const list = document.createElement("dl");
  const row = (name, value) => list.append(element("dt", "", name), element("dd", "", value));
  if (content) {
    row("From", content.source);
    row("Kind", content.type);
    row("Sent", time(content.created));
  }
  row("Received", time(at));
  if (content) row("Checked", "Signed by your organisation, sealed to you on this device");
  return list;
}

