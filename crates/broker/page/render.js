// Shows content. HTML was sanitised by the organisation's gateway; here it goes into a frame that has no scripts, no forms, no
// network and an origin of its own, so that nothing depends on that alone.

import { framed } from "./trust.js";

/** The frame's only style. The page's policy allows it by its hash. */
export const FRAME_STYLE =
  ":root{color-scheme:light dark;font:1rem/1.55 system-ui,sans-serif}body{margin:0;padding:.75rem;overflow-wrap:anywhere;background:Canvas;color:CanvasText}img{max-width:100%;height:auto}pre{white-space:pre-wrap}table{border-collapse:collapse}td,th{border:1px solid GrayText;padding:.25rem .5rem;text-align:start}blockquote{margin-inline:0;padding-inline-start:1rem;border-inline-start:3px solid GrayText}a:link{color:LinkText}";
/** Its hash, as policies have it. */
export const FRAME_STYLE_HASH = "sha256-p5wzWWg1cd+3dzw/nMlNjoEW/T5A1+zxdtnVMxdS16A=";

const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/svg+xml"];
const DROPPED = "script,style,link,meta,base,iframe,frame,object,embed,form,input,button,textarea,select,template,noscript";

/** Media types that this page shows, for a device's profile. */
export const ACCEPT =
  "text/html, image/png, image/jpeg, image/webp, image/gif;q=0.9, text/markdown;q=0.7, text/plain;q=0.6";

/** An element that shows the content, and what is to be called when it goes. */
export function render({ contentType, body, subject }) {
  const type = contentType.split(";")[0].trim().toLowerCase();
  if (type === "text/html") return { element: frame(decoded(contentType, body)), release: () => {} };
  if (IMAGES.includes(type)) return image(type, body, subject);
  if (type.startsWith("text/") || /[/+](json|xml)$/.test(type)) {
    return { element: plain(decoded(contentType, body)), release: () => {} };
  }
  return download(type, body, subject);
}

function decoded(contentType, body) {
  const charset = /;\s*charset\s*=\s*"?([^\s;"]+)/i.exec(contentType)?.[1] ?? "utf-8";
  try {
    return new TextDecoder(charset).decode(body);
  } catch {
    return new TextDecoder().decode(body);
  }
}

function plain(text) {
  const element = document.createElement("pre");
  element.className = "text";
  element.textContent = text;
  return element;
}

function frame(html) {
  const element = document.createElement("iframe");
  element.title = "Content of the message";
  // A link that the user follows opens a window of its own.
  element.setAttribute("sandbox", "allow-popups allow-popups-to-escape-sandbox");
  element.referrerPolicy = "no-referrer";
  const policy = `default-src 'none'; img-src data:; style-src '${FRAME_STYLE_HASH}'`;
  element.srcdoc = framed(
    `<!doctype html><html><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${policy}"><style>${FRAME_STYLE}</style></head><body>${tidy(html)}</body></html>`,
  );
  return element;
}

// Takes out what a sanitised text does not hold, says what a picture from elsewhere would have shown, and makes links open
// windows of their own.
function tidy(html) {
  const { body } = new DOMParser().parseFromString(framed(html), "text/html");
  for (const element of body.querySelectorAll(DROPPED)) element.remove();
  for (const element of body.querySelectorAll("*")) {
    for (const { name } of [...element.attributes]) if (/^(on|style$|srcdoc$)/i.test(name)) element.removeAttribute(name);
  }
  for (const image of body.querySelectorAll("img")) {
    if (!/^data:image\//i.test(image.getAttribute("src") ?? "")) image.replaceWith(image.alt ? `[${image.alt}]` : "");
  }
  for (const link of body.querySelectorAll("a, area")) {
    if (/^(https?|mailto|tel):/i.test(link.getAttribute("href") ?? "")) {
      link.setAttribute("target", "_blank");
      link.setAttribute("rel", "noopener noreferrer");
    } else {
      link.removeAttribute("href");
    }
  }
  return body.innerHTML;
}

function image(type, body, subject) {
  const url = URL.createObjectURL(new Blob([body], { type }));
  const element = document.createElement("img");
  element.className = "picture";
  element.alt = subject ?? "The message is an image without a description.";
  element.src = url;
  return { element, release: () => URL.revokeObjectURL(url) };
}

function download(type, body, subject) {
  const url = URL.createObjectURL(new Blob([body], { type: "application/octet-stream" }));
  const element = document.createElement("p");
  const link = document.createElement("a");
  link.href = url;
  link.download = (subject ?? "message").replace(/[^\p{L}\p{N} ._-]+/gu, "_").slice(0, 80);
  link.textContent = `Save it (${type})`;
  element.append("This page cannot show this kind of content. ", link);
  return { element, release: () => URL.revokeObjectURL(url) };
}
