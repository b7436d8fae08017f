// What the page says: each state and each error in words that tell what happened, and what the user can do.

import { EnvelopeError } from "./envelope.js";
import { EnrolmentError } from "./enrol.js";
import { PasskeyError } from "./passkey.js";
import { RemoteError, Unreachable } from "./remote.js";
import { StatementError } from "./statement.js";

/** The line of the status, and a mark for it, by the connection's state. */
export const STATES = {
  unenrolled: ["off", "Not enrolled: this browser is no device yet."],
  enrolled: ["wait", "Enrolled: not connected yet."],
  locked: ["off", "Locked: nothing can be opened until you unlock."],
  elsewhere: ["off", "In use in another window of this browser."],
  connecting: ["wait", "Connecting…"],
  live: ["on", "Live: messages appear as they arrive."],
  offline: ["off", "Offline: messages wait in the mailbox."],
  revoked: ["off", "Revoked: this device receives nothing any more."],
};

/** Seconds as people say them. */
export function aboutSeconds(milliseconds) {
  const seconds = Math.max(1, Math.round(milliseconds / 1000));
  return seconds === 1 ? "1 second" : `${seconds} seconds`;
}

/** Bytes as people say them. */
export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  const value = bytes / 1000 ** power;
  return `${power === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${units[power]}`;
}

/** Why the stream is down, and when it is tried again. `blocked`: this page's policy does not know the mailbox. */
export function offline({ error, wait }, blocked) {
  if (blocked) return "This page was loaded when your organisation did not reach the mailbox, and may not speak with it. Load the page again.";
  const why = !navigator.onLine
    ? "This computer has no network."
    : error
      ? fault(error)
      : "The mailbox ended the connection.";
  return `${why} Next try in ${aboutSeconds(wait)}. What was opened can be read meanwhile.`;
}

/** What to say of a revocation, as the mailbox tells it, and whether the organisation confirms it. */
export function revoked({ confirmed }) {
  return confirmed
    ? "Your organisation has revoked this device. Nothing new will be opened here. Under “This device” you can remove what is kept here; for a new enrolment link ask your administrator."
    : "The mailbox says that this device is revoked, but your organisation does not confirm it, or cannot be reached. Load the page again later; if it stays like this, ask your administrator.";
}

/** Of numbers that are missing without an explanation. */
export const withheld = (count) =>
  `${count === 1 ? "1 message is" : `${count} messages are`} missing, and your organisation has not said why. The mailbox may be withholding ${count === 1 ? "it" : "them"}: tell your administrator.`;

/** Of an envelope that was not taken. */
export const refused = (error) =>
  `Something that arrived was refused and is not shown: ${fault(error)} Your organisation will be told. If it happens again, tell your administrator.`;

/** An error in a sentence or two. */
export function fault(error) {
  if (error instanceof EnvelopeError || error instanceof StatementError) return sentence(error.message);
  if (error instanceof EnrolmentError || error instanceof PasskeyError) return error.message;
  if (error instanceof Unreachable) return `${error.message} Check this device's network; otherwise the server is down.`;
  if (error instanceof RemoteError) return remote(error);
  switch (error?.name) {
    case "QuotaExceededError":
      return "The browser gives this page no more room. Delete messages here, or data of other sites.";
    case "TimeoutError":
      return "The server did not answer in time.";
    case "OperationError":
      return "A key does not fit: what is kept here was made with another passkey.";
    default:
      return sentence(error?.message || "Something went wrong");
  }
}

function remote(error) {
  if (error.status === 429) return "The server has too much to do. It is tried again later.";
  if (error.status >= 500) return `${sentence(error.message)} This is the server's fault; try again later.`;
  return sentence(error.message);
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
