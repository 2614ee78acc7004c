// Work on whole collections: backups, exports, embedding again.

import { ask, call } from "./api.js";
import { keyHeaders } from "./keys.js";
import { line } from "./notices.js";
import { el } from "./parts.js";

const POLL = 1000; // milliseconds; there is no stream for these
const FIRST_POLL = 100; // small collections are done by then
const KEPT_IN_MEMORY = 200e6; // bytes of a download that a browser without a better way is asked to hold

export const isUnderWay = ({ state }) => state === "queued" || state === "running";
export const begin = (kind, collection, options = {}) => call("POST", "/v1/operations", { kind, collection, ...options });
export const operations = async () => (await call("GET", "/v1/operations")).operations;
export const remove = ({ id }) => call("DELETE", `/v1/operations/${id}`);

export const pause = (milliseconds = POLL) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Embeds a collection by the default model, or by the one that ``options`` name, with a line in the corner.
export async function embedAgain(collection, onDone, options = {}) {
  const shown = line(`${collection}: embedding again`);
  try {
    let operation = await begin("reembed", collection, options);
    for (let wait = FIRST_POLL; isUnderWay(operation); wait = Math.min(2 * wait, POLL)) {
      shown.say(operation.state === "queued" ? "waiting" : `embedding, ${Math.round(operation.progress * 100)}%`, operation.progress);
      await pause(wait);
      operation = await call("GET", `/v1/operations/${operation.id}`);
    }
    await remove(operation);
    if (operation.error) shown.fail(operation.error);
    else shown.end("done");
    await onDone(collection);
  } catch (error) {
    shown.fail(error.message);
  }
}

// Saves a file of an operation. Links carry no key, so that with one the page fetches the file itself: straight to the
// disk where the browser can, else by way of memory.
export async function save({ name, bytes, url }) {
  if (!keyHeaders().Authorization) return follow(url, name);
  if (bytes <= KEPT_IN_MEMORY || !window.showSaveFilePicker) {
    const blob = URL.createObjectURL(await (await ask("GET", url)).blob());
    follow(blob, name);
    setTimeout(() => URL.revokeObjectURL(blob), 60000);
    return;
  }
  const place = await window.showSaveFilePicker({ suggestedName: name }).catch(() => null);
  if (place) await (await ask("GET", url)).body.pipeTo(await place.createWritable());
}

function follow(href, download) {
  const link = el("a", { href, download });
  document.body.append(link);
  link.click();
  link.remove();
}
