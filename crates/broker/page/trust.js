// The only places where text becomes markup or a script's address. The page's policy requires Trusted Types, so that anything
// else which tries is stopped by the browser.

const SERVICE_WORKER = "/sw.js";

const policy = globalThis.trustedTypes?.createPolicy("hawser", {
  createHTML: (html) => html,
  createScriptURL: (url) => {
    if (url !== SERVICE_WORKER) throw new TypeError(`${url} is not the page's service worker`);
    return url;
  },
});

/** Markup for the sandboxed frame and for the parser, nothing else. */
export const framed = (html) => policy?.createHTML(html) ?? html;

/** The service worker's address. */
export const serviceWorker = () => policy?.createScriptURL(SERVICE_WORKER) ?? SERVICE_WORKER;
