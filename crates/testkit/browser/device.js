// A browser as a device of the broker: Debian's Chromium, driven line by line over a socket. Each line is a JSON object whose
// `do` names a command below; each answer is one, too, with `error` where it did not go well.
//
//   node device.js SOCKET OPTIONS
//
// OPTIONS is JSON: `home` (whose `.pki/nssdb` holds the certificate authorities), `profile` (a directory), `names` (host names
// and their addresses), `prf` (whether the virtual authenticator's passkeys have it).

import { createRequire } from "node:module";
import { createServer } from "node:net";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../../target/browser/", import.meta.url));
const { chromium } = require("playwright-core");

/** Milliseconds. */
const PATIENCE = 60_000;
const [socket, given] = process.argv.slice(2);
const options = JSON.parse(given);

const rules = Object.entries(options.names).map(([name, address]) => `MAP ${name} ${address}`);
const context = await chromium.launchPersistentContext(options.profile, {
  executablePath: "/usr/bin/chromium",
  headless: true,
  chromiumSandbox: false,
  viewport: { width: 1100, height: 750 },
  env: { ...process.env, HOME: options.home },
  args: [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    `--host-resolver-rules=${rules.join(", ")}`,
  ],
});
context.setDefaultTimeout(PATIENCE);
const page = context.pages()[0] ?? (await context.newPage());
page.on("console", (message) => console.log("console", message.type(), message.text()));
page.on("pageerror", (error) => console.log("pageerror", error.stack));

const cdp = await context.newCDPSession(page);
await cdp.send("WebAuthn.enable");
const { authenticatorId } = await cdp.send("WebAuthn.addVirtualAuthenticator", {
  options: {
    protocol: "ctap2",
    ctap2Version: "ctap2_1",
    transport: "internal",
    hasResidentKey: true,
    hasUserVerification: true,
    isUserVerified: true,
    automaticPresenceSimulation: true,
    hasPrf: options.prf,
  },
});

// Requests that carried a proof, as somebody has them who can read along.
const proved = [];
page.on("request", (request) => {
  const { dpop: proof, authorization = "", "hawser-device": device = "" } = request.headers();
  if (proof) proved.push({ method: request.method(), url: request.url(), proof, token: authorization.replace(/^DPoP /, ""), device });
});

const visible = (id) => page.waitForSelector(`#${id}:not([hidden])`);
const item = (subject) => page.locator(".item", { has: page.locator(".subject", { hasText: subject }) }).first();
const view = () =>
  page.evaluate(() => document.querySelector("main > section:not([hidden])")?.id.replace("view-", "") ?? "");

// Waits until the page shows a view.
async function arrived() {
  await page.waitForSelector("main > section:not([hidden])");
  return { view: await view(), address: page.url() };
}

async function state({ is }) {
  await page.waitForFunction((wanted) => document.getElementById("status").dataset.state === wanted, is);
}

// What the reading pane shows: `text`, `html` (the frame's text and markup), `image` or nothing.
async function shown() {
  const frame = await page.$("#reader-body iframe");
  if (frame) {
    const inside = await frame.contentFrame();
    await inside.waitForLoadState();
    return { kind: "html", text: await inside.innerText("body"), html: await inside.innerHTML("body") };
  }
  const text = await page.$("#reader-body pre");
  if (text) return { kind: "text", text: await text.textContent() };
  const image = await page.$("#reader-body img");
  if (image) {
    await image.evaluate((element) => element.decode());
    return { kind: "image", text: await image.getAttribute("alt"), width: await image.evaluate((e) => e.naturalWidth) };
  }
  return { kind: "none", text: "" };
}

// Pages of any site, by name, and what their last navigation was answered with.
const tabs = new Map();
const statuses = new Map();
// Requests of these pages for an address, with their cookies.
const asked = [];

async function tab(name = "first") {
  if (!tabs.has(name)) {
    const opened = await context.newPage();
    opened.on("response", async (response) => {
      const request = response.request();
      if (request.isNavigationRequest()) statuses.set(opened, response.status());
    });
    opened.on("request", async (request) => {
      const headers = await request.allHeaders().catch(() => ({}));
      asked.push({ url: request.url(), cookie: headers.cookie ?? "" });
    });
    tabs.set(name, opened);
  }
  return tabs.get(name);
}

const seen = async (at) => ({ address: at.url(), status: statuses.get(at), text: await at.textContent("body") });

const commands = {
  async visit({ url, on }) {
    const at = await tab(on);
    await at.goto(url);
    return seen(at);
  },
  // Fills in a provider's form, and waits until it leads back to a host.
  async "log-in"({ user, host, on }) {
    const at = await tab(on);
    await at.fill("input[name=login]", user);
    await at.fill("input[name=password]", "any");
    await Promise.all([at.waitForURL((url) => url.host === host), at.click("button[type=submit]")]);
    return seen(at);
  },
  async ask({ path, on }) {
    const at = await tab(on);
    return at.evaluate(async (path) => {
      const answer = await fetch(path);
      return { status: answer.status, type: answer.headers.get("content-type"), text: await answer.text() };
    }, path);
  },
  async socket({ path, on }) {
    const at = await tab(on);
    return at.evaluate(
      (path) =>
        new Promise((resolve) => {
          const socket = new WebSocket(`wss://${location.host}${path}`, "echo");
          socket.onopen = () => resolve({ opened: true });
          socket.onerror = () => resolve({ opened: false });
        }),
      path,
    );
  },
  async cookies() {
    return { cookies: await context.cookies() };
  },
  async forget() {
    await context.clearCookies();
  },
  async asked({ part }) {
    return { requests: asked.filter((request) => request.url.includes(part)) };
  },
  async open({ url }) {
    await page.goto(url);
    return arrived();
  },
  // The same while one file of the page does not arrive, once; gives what the page says.
  async "open-partly"({ url, file }) {
    await page.route(`**${file}`, (route) => route.abort("connectionreset"), { times: 1 });
    await page.goto(url);
    await visible("detail");
    return { says: await page.textContent("#detail-text") };
  },
  arrived,
  async enrol({ name, passkey }) {
    await visible("view-enrol");
    if (name) await page.fill("#name", name);
    await page.click(passkey ? "#enrol-passkey" : "#enrol-bare");
    await Promise.race([visible("view-enrolled"), visible("alert"), passkey ? visible("bare-help") : undefined].filter(Boolean));
    if ((await view()) !== "enrolled") throw new Error("it was not enrolled");
    const check = await page.textContent("#check-number");
    await page.click("#enrolled-go");
    return { check };
  },
  // Tries to enrol with a passkey where there can be none; gives what the page says.
  async "enrol-refused"() {
    await visible("view-enrol");
    await page.click("#enrol-passkey");
    await visible("bare-help");
    return { says: await page.textContent("#bare-help") };
  },
  state,
  async unlock({ is }) {
    await page.click("#unlock");
    await state({ is });
  },
  // Tries to unlock where it cannot be; gives what the page says, and how many messages it shows.
  async "unlock-refused"() {
    await page.click("#unlock");
    await visible("alert");
    return { says: await page.textContent("#alert-text"), view: await view(), items: await page.locator(".item").count() };
  },
  async verify({ user }) {
    await cdp.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: user });
  },
  async reload() {
    await page.reload();
    return arrived();
  },
  // Waits until the service worker has all it needs to do without a network.
  async worker() {
    await page.evaluate(() => navigator.serviceWorker.ready.then(() => true));
  },
  async network({ on }) {
    await context.setOffline(!on);
  },
  async read({ subject }) {
    await item(subject).waitFor();
    await item(subject).click();
    await page.locator("#reader-title", { hasText: subject }).waitFor();
    await page.waitForSelector("#reader-body .danger");
    return shown();
  },
  async fetch() {
    await page.getByRole("button", { name: /Get all of it/ }).click();
    await page.waitForFunction(
      () => ![...document.querySelectorAll("#reader-body button")].some((b) => /Get/.test(b.textContent)) || !document.getElementById("alert").hidden,
    );
    const alert = page.locator("#alert:not([hidden]) p");
    if ((await alert.count()) > 0) return { says: await alert.textContent() };
    return shown();
  },
  async proved() {
    return { requests: proved };
  },
  async subjects() {
    return { subjects: await page.locator(".item .subject").allTextContents() };
  },
  async says({ id }) {
    await visible(id);
    return { says: await page.textContent(`#${id}`) };
  },
  // Whether any key that the page keeps can be exported, and which fields its sealed keys have.
  async keys() {
    return page.evaluate(async () => {
      const done = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
      const db = await done(indexedDB.open("hawser"));
      const record = await done(db.transaction("device").objectStore("device").get("self"));
      db.close();
      const all = [record.signing.privateKey, record.sealed.privateKey, record.sealed.keeping].filter(Boolean);
      return { sealed: Object.keys(record.sealed), exportable: all.some((key) => key.extractable) };
    });
  },
  async press({ keys }) {
    for (const key of keys) await page.keyboard.press(key);
    return page.evaluate(() => ({ focus: document.activeElement.id || document.activeElement.className }));
  },
  async look({ dark, width, height }) {
    await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
    await page.setViewportSize({ width, height });
  },
  async screenshot({ path }) {
    await page.screenshot({ path });
  },
};

async function answer(line) {
  try {
    const command = JSON.parse(line);
    const act = commands[command.do];
    if (!act) throw new Error(`no command ${command.do}`);
    return (await act(command)) ?? {};
  } catch (error) {
    const says = await page.textContent("body").catch(() => "");
    return { error: `${error.message}\nthe page says: ${says.replace(/\s+/g, " ").slice(0, 2000)}` };
  }
}

createServer(async (connection) => {
  for await (const line of createInterface({ input: connection })) {
    connection.write(`${JSON.stringify(await answer(line))}\n`);
  }
}).listen(socket, () => console.log("ready"));
