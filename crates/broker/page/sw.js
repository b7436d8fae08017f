// The service worker: serves the page without a network, and shows notifications. It never sees a message or a key.

const CACHE = "hawser-shell-1";
const SHELL = [
  "/",
  "/app.css",
  "/app.js",
  "/boot.js",
  "/bytes.js",
  "/cbor.js",
  "/device.js",
  "/dpop.js",
  "/enrol.js",
  "/envelope.js",
  "/hpke.js",
  "/icon.svg",
  "/icon-maskable.svg",
  "/keys.js",
  "/ledger.js",
  "/manifest.webmanifest",
  "/message.js",
  "/passkey.js",
  "/reader.js",
  "/remote.js",
  "/render.js",
  "/statement.js",
  "/store.js",
  "/stream.js",
  "/trust.js",
  "/words.js",
];
/** Milliseconds that the network has before the kept page is shown. */
const PATIENCE = 4_000;

// All of them or none, so that the kept files always belong together.
async function keep() {
  const cache = await caches.open(CACHE);
  await cache.addAll(SHELL.map((path) => new Request(path, { cache: "no-cache" })));
}

self.addEventListener("install", (event) => {
  event.waitUntil(keep().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  if (request.mode === "navigate") event.respondWith(page(event));
  else if (SHELL.includes(url.pathname)) event.respondWith(networkFirst(request, url.pathname));
});

async function page(event) {
  // With a network, what is kept is renewed as a whole, for the next time.
  if (navigator.onLine) event.waitUntil(keep().catch(() => {}));
  return networkFirst(event.request, "/");
}

async function networkFirst(request, path) {
  const kept = await caches.match(path, { cacheName: CACHE });
  if (!kept) return fetch(request);
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE, kept));
  return Promise.race([fetch(request).catch(() => kept), late]);
}

self.addEventListener("message", (event) => {
  const { notify } = event.data ?? {};
  if (!notify) return;
  const { title, body, sequence } = notify;
  const options = { body, tag: `message-${sequence}`, icon: "/icon.svg", badge: "/icon.svg", data: { sequence } };
  event.waitUntil(self.registration.showNotification(title, options));
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(show(event.notification.data?.sequence));
});

async function show(sequence) {
  const [window] = await self.clients.matchAll({ type: "window" });
  if (!window) return self.clients.openWindow("/");
  await window.focus();
  window.postMessage({ show: sequence });
}
