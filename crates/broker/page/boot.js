// Starts the page. When a file of it does not arrive, because the network broke or changed meanwhile, nothing else of the page runs:
// then this says so, and loads it again. The address stays, with an enrolment link in it.

/** Milliseconds. */
const AGAIN = 5_000;

const byId = (id) => document.getElementById(id);
const again = () => location.reload();

function failed(error) {
  console.error(error);
  byId("status").dataset.mark = "off";
  byId("status-text").textContent = "Not started.";
  byId("detail").hidden = false;
  if (error instanceof SyntaxError) {
    byId("detail-text").textContent = "This browser is too old for this page: a current one is needed.";
    byId("retry").hidden = true;
    return;
  }
  byId("detail-text").textContent = `A part of this page did not arrive. It is loaded again in ${AGAIN / 1000} seconds.`;
  byId("retry").addEventListener("click", again);
  window.addEventListener("online", again);
  setTimeout(again, AGAIN);
}

import("./app.js").catch(failed);
