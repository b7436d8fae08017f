// The page: which view is shown, and what its buttons do. What a device does is in `device.js`.

import { toBase64Url } from "./bytes.js";
import { Device } from "./device.js";
import * as enrol from "./enrol.js";
import * as hpke from "./hpke.js";
import * as keys from "./keys.js";
import * as passkey from "./passkey.js";
import { Reader, subjectOf } from "./reader.js";
import { Remote, RemoteError, Unreachable, object } from "./remote.js";
import { ACCEPT } from "./render.js";
import { Store, makeKeys, openKeys } from "./store.js";
import { serviceWorker } from "./trust.js";
import { STATES, fault, offline, refused, revoked, withheld } from "./words.js";

/** Most bytes of one content that this page asks for. */
const MAX_BYTES = 8 * 1024 * 1024;
const LOCK = "hawser-device";
const VIEWS = ["welcome", "enrol", "enrolled", "locked", "elsewhere", "broken", "messages"];

const byId = (id) => document.getElementById(id);
const on = (id, event, act) => byId(id).addEventListener(event, (happened) => guard(act, happened));

let store = null;
let link = null;
let device = null;
let release = () => {};
let attempt = null;
let worker = null;
let gapTimer = 0;
let blocked = false;

// ---- what is shown ----

function view(name) {
  for (const each of VIEWS) byId(`view-${each}`).hidden = each !== name;
  byId("open-device").hidden = name !== "messages";
  if (name !== "messages") byId("withheld").hidden = true;
  if (name !== "messages" && name !== "enrol") byId("detail").hidden = true;
  byId(`view-${name}`).querySelector("h2").focus();
}

function status(name) {
  const [mark, words] = STATES[name];
  byId("status").dataset.mark = mark;
  byId("status").dataset.state = name;
  byId("status-text").textContent = words;
}

function detail(words, retry) {
  byId("detail").hidden = words === "";
  byId("detail-text").textContent = words;
  byId("retry").hidden = !retry;
}

function alert(words) {
  byId("alert").hidden = words === "";
  byId("alert-text").textContent = words;
}

const announce = (words) => (byId("announce").textContent = words);

async function guard(act, ...given) {
  try {
    await act(...given);
  } catch (error) {
    console.error(error);
    alert(fault(error));
  }
}

function confirm(title, text, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// ---- start ----

async function missing() {
  if (!window.isSecureContext || !crypto.subtle) return "Open this page by its https:// address.";
  if (!navigator.locks || !AbortSignal.any) return "It is too old: a current one is needed.";
  try {
    await hpke.generate(false);
  } catch {
    return "Its Web Crypto lacks X25519: Chromium 133, Firefox 130 or Safari 17 is needed, or later.";
  }
  try {
    store = await Store.open();
  } catch {
    return "It keeps no data for this page: leave the private window, or allow this site to store data.";
  }
  return "";
}

async function start() {
  const why = await missing();
  if (why !== "") {
    byId("broken-text").textContent = why;
    status("unenrolled");
    return view("broken");
  }
  registerWorker();
  takeLink();
  await home();
}

// The link's secret leaves the address at once, so that it stays in no history.
function takeLink() {
  if (location.hash.length < 2) return;
  const { hash } = location;
  history.replaceState(null, "", "/");
  guard(() => (link = enrol.parseLink(hash)));
}

async function home() {
  const record = await store.device();
  if (link) return showEnrol(record);
  if (!record) {
    status("unenrolled");
    return view("welcome");
  }
  if (record.passkey) return showLocked(record);
  await work(record, await openKeys(record.sealed, null));
}

async function registerWorker() {
  if (!navigator.serviceWorker) return;
  try {
    worker = await navigator.serviceWorker.register(serviceWorker());
    await navigator.serviceWorker.ready;
  } catch {
    // Without it the page works, but neither offline nor with notifications.
    worker = null;
  }
}

// ---- enrolment ----

function showEnrol(record) {
  status("unenrolled");
  byId("enrol-domain").textContent = link.domain;
  byId("name").value ||= suggestedName();
  const has = passkey.available();
  byId("passkey-help").hidden = !has;
  byId("enrol-passkey").hidden = !has;
  if (!has) offerBare("This browser has no passkeys.");
  byId("enrol-replaces").hidden = !record;
  byId("enrol-cancel").hidden = !record;
  if (record) {
    byId("enrol-replaces").textContent =
      `This browser is already a device of ${record.identity.user}. To enrol it anew removes that one from here, with the messages that it keeps.`;
  }
  view("enrol");
}

function suggestedName() {
  const platform = navigator.userAgentData?.platform ?? navigator.platform ?? "";
  const brands = (navigator.userAgentData?.brands ?? []).map(({ brand }) => brand).filter((name) => !/not.?a.?brand/i.test(name));
  const brand = brands.find((name) => name !== "Chromium") ?? brands[0];
  return [brand ?? "Browser", platform && `on ${platform}`].filter(Boolean).join(" ");
}

function offerBare(why) {
  byId("bare-help").hidden = false;
  byId("bare-help").textContent =
    `${why} You can enrol without one. Then the keys cannot be copied out of this browser, but whoever uses this computer under your account can open your messages.`;
  byId("enrol-bare").hidden = false;
}

function busy(is) {
  for (const id of ["enrol-passkey", "enrol-bare"]) byId(id).disabled = is;
}

async function submitEnrol(withPasskey) {
  alert("");
  if (enrol.cleanName(byId("name").value) === "") {
    byId("name").focus();
    throw new enrol.EnrolmentError("Give this device a name.");
  }
  busy(true);
  try {
    await enrolNow(withPasskey);
  } catch (error) {
    if (error instanceof passkey.PasskeyError) offerBare(error.message);
    else alert(`${fault(error)}${advice(error)}`);
  } finally {
    busy(false);
  }
}

function advice(error) {
  if (error instanceof Unreachable) return " Your link is still good: try again.";
  if (error instanceof RemoteError && [403, 404, 409, 410].includes(error.status)) return " A link works once, for ten minutes: ask your administrator for a new one.";
  return "";
}

// A request that got no answer is repeated as it was, since its answer may have been lost.
async function enrolNow(withPasskey) {
  if (attempt?.link !== link || attempt.withPasskey !== withPasskey) attempt = await prepare(withPasskey);
  const { requestBytes, signing, sealed, opened, credential, profile } = attempt;
  const remote = new Remote(location.origin, signing, null);
  const answered = await object(
    await remote.request("POST", "/v1/devices", { json: await enrol.message(link, requestBytes) }),
  );
  const made = { signingKey: signing.publicBytes, sealingKey: sealed.publicBytes };
  const identity = await enrol.accept(link, requestBytes, made, answered);
  const record = { identity, signing, sealed, passkey: credential, ledger: {}, profile };
  await store.enrolled(record);
  byId("check-number").textContent = await enrol.checkNumber(link, requestBytes);
  byId("enrolled-user").textContent = identity.user;
  [link, attempt] = [null, null];
  await navigator.storage?.persist?.();
  byId("enrolled-go").onclick = () => guard(() => work(record, opened));
  status("enrolled");
  view("enrolled");
}

async function prepare(withPasskey) {
  const credential = withPasskey ? await passkey.create(`${byId("name").value} at ${link.domain}`) : null;
  const wrapping = credential && (await passkey.wrappingKey(credential));
  const { sealed, open: opened } = await makeKeys(wrapping);
  const pair = await keys.generate();
  const signing = { privateKey: pair.privateKey, publicBytes: await keys.publicBytes(pair.publicKey) };
  const profile = currentProfile();
  const requestBytes = enrol.request(link, {
    signingKey: signing.publicBytes,
    sealingKey: sealed.publicBytes,
    name: byId("name").value,
    profile,
  });
  return { link, withPasskey, credential, sealed, opened, signing, requestBytes, profile: JSON.stringify(profile) };
}

function currentProfile() {
  const scale = window.devicePixelRatio || 1;
  return {
    accept: ACCEPT,
    max_bytes: MAX_BYTES,
    screen: [screen.width, screen.height].map((edge) => Math.max(1, Math.round(edge * scale))),
    languages: navigator.languages.slice(0, 8).join(", "),
    schema: 1,
  };
}

// ---- locked, and at work ----

function showLocked(record) {
  status("locked");
  byId("locked-user").textContent = record.identity.user;
  view("locked");
}

async function unlock() {
  alert("");
  const record = await store.device();
  if (!record) return home();
  byId("unlock").disabled = true;
  try {
    await work(record, await openKeys(record.sealed, await passkey.wrappingKey(record.passkey)));
  } finally {
    byId("unlock").disabled = false;
  }
}

// One window at a time: two would both take what arrives.
function hold(steal) {
  return new Promise((resolve) => {
    const options = steal ? { steal: true } : { ifAvailable: true };
    navigator.locks
      .request(LOCK, options, (lock) => {
        if (!lock) return resolve(false);
        return new Promise((letGo) => {
          release = letGo;
          resolve(true);
        });
      })
      .catch(() => {
        // Another window took it.
        rest();
        status("elsewhere");
        view("elsewhere");
      });
  });
}

async function work(record, opened, steal = false) {
  if (!(await hold(steal))) {
    status("elsewhere");
    byId("take-over").onclick = () => guard(async () => work(await store.device(), opened, true));
    return view("elsewhere");
  }
  device = await Device.start(store, record, opened, tell);
  reader.show(await device.messages());
  view("messages");
  showGaps();
  const running = device;
  guard(() => running.listen());
}

function rest() {
  device?.stop();
  device = null;
  clearTimeout(gapTimer);
  release();
  release = () => {};
  byId("take-over").onclick = () => location.reload();
}

const tell = {
  state(name, what) {
    status(name);
    if (name === "offline") detail(offline(what, blocked), true);
    else if (name === "revoked") detail(revoked(what), false);
    else if (name === "live") {
      detail("", false);
      // What this device can show is told again where it changed. If control is down, delivery goes on.
      device?.updateProfile(currentProfile()).catch(() => {});
    }
  },
  arrived(message) {
    reader.add(message);
    announce(`New message: ${subjectOf(message)}`);
    if (document.visibilityState !== "visible") notify(message);
  },
  refused: (error) => alert(refused(error)),
  gaps: () => showGaps(),
  unsent: (error) => console.warn("acknowledgements wait:", error.message),
};

function showGaps() {
  clearTimeout(gapTimer);
  if (!device) return;
  const now = Math.floor(Date.now() / 1000);
  const count = device.ledger.withheld(now);
  byId("withheld").hidden = count === 0;
  byId("withheld").textContent = count === 0 ? "" : withheld(count);
  const next = device.ledger.next(now);
  if (next !== null) gapTimer = setTimeout(showGaps, (next - now + 1) * 1000);
}

const reader = new Reader({
  body: (message) => device.body(message.sequence),
  opened: (message) => device.markOpened(message.sequence),
  fetch: (message) =>
    device.fetch(message.sequence, message.content, {
      languages: navigator.languages.slice(0, 8).join(", "),
      saveData: Boolean(navigator.connection?.saveData),
    }),
  async remove(message) {
    const sure = await confirm("Delete this message?", "It is deleted from this device, and cannot be had again here.", "Delete it");
    if (sure) await device.remove(message.sequence);
    return sure;
  },
  failed: (error) => alert(fault(error)),
});

// ---- this device ----

async function showDevice() {
  const record = await store.device();
  if (!record) return;
  const { identity } = record;
  const facts = [
    ["Name", identity.name],
    ["User", identity.user],
    ["Organisation", identity.domain],
    ["Device", toBase64Url(identity.handle)],
    ["Mailbox", new URL(identity.mailbox).host],
  ];
  byId("device-facts").replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const [term, description] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, description.textContent] = [name, value];
      return [term, description];
    }),
  );
  byId("device-protection").textContent = record.passkey
    ? "Its keys and the messages kept here are locked with your passkey."
    : "Its keys cannot be copied out of this browser, but they are not locked: whoever uses this computer under your account can open your messages.";
  byId("lock").hidden = !record.passkey;
  showNotifications();
  byId("device").showModal();
}

function showNotifications() {
  const permission = globalThis.Notification?.permission;
  byId("notify").hidden = permission !== "default" || !worker;
  byId("notify-help").textContent =
    permission === "granted"
      ? "Notifications are shown while this page is open in the background. They do not say what a message holds."
      : permission === "denied"
        ? "This browser does not allow notifications for this page."
        : "";
}

function notify({ sequence }) {
  if (globalThis.Notification?.permission !== "granted" || !worker?.active) return;
  const words = { title: "New message", body: `For ${device.identity.user}. Open Hawser to read it.`, sequence };
  worker.active.postMessage({ notify: words });
}

async function remove() {
  byId("device").close();
  const sure = await confirm(
    "Remove this device?",
    "Your organisation is asked to revoke it, and its keys and all messages kept in this browser are deleted. To use it again you need a new enrolment link.",
    "Remove it",
  );
  if (!sure) return;
  const record = await store.device();
  if (record) await forgetDevice(record);
  rest();
  detail("", false);
  await home();
}

async function forgetDevice(record) {
  let untold = "";
  try {
    const asker = device ?? (await Device.start(store, record, {}, tell));
    await asker.revoke();
  } catch (error) {
    // One that is revoked already cannot ask any more.
    if (!(error instanceof RemoteError && [401, 403, 404, 410].includes(error.status))) untold = fault(error);
  }
  await store.clear();
  if (record.passkey) await passkey.forget(record.passkey.id);
  alert(untold && `It is removed from this browser, but your organisation could not be told: ${untold} Ask your administrator to revoke it.`);
}

async function lockNow() {
  byId("device").close();
  rest();
  detail("", false);
  reader.show([]);
  await home();
}

// ---- wiring ----

on("link-form", "submit", async (event) => {
  event.preventDefault();
  alert("");
  link = enrol.parseLink(byId("link").value);
  byId("link").value = "";
  await home();
});
on("enrol-form", "submit", (event) => {
  event.preventDefault();
  return submitEnrol(passkey.available());
});
on("enrol-bare", "click", () => submitEnrol(false));
on("enrol-cancel", "click", () => {
  link = null;
  return home();
});
on("unlock", "click", unlock);
on("locked-remove", "click", remove);
on("open-device", "click", showDevice);
on("notify", "click", async () => {
  await Notification.requestPermission();
  showNotifications();
});
on("lock", "click", lockNow);
on("remove", "click", remove);
on("alert-close", "click", () => alert(""));
on("retry", "click", () => window.dispatchEvent(new Event("online")));
document.addEventListener("securitypolicyviolation", ({ effectiveDirective }) => {
  if (effectiveDirective === "connect-src") blocked = true;
});
window.addEventListener("hashchange", () => {
  takeLink();
  if (!link) return;
  rest();
  guard(home);
});
navigator.serviceWorker?.addEventListener("message", ({ data }) => {
  if (Number.isSafeInteger(data?.show) && device) reader.open(data.show);
});

guard(start);
