// Work on whole collections: backups, exports, embedding again.

import { request, call } from "./api.js";
import { keyHeaders } from "./api_key.js";
import { createToast } from "./toasts.js";
import { el } from "./dom.js";

const POLL_INTERVAL = 1000; // milliseconds; there is no stream for these
const FIRST_POLL_INTERVAL = 100; // small collections are done by then
const MAX_BLOB_BYTES = 200e6; // bytes of a download that a browser without a better way is asked to hold

export const isUnfinished = ({ state }) => state === "queued" || state === "running";
export const startOperation = (kind, collection, options = {}) => call("POST", "/v1/operations", { kind, collection, ...options });
export const listOperations = async () => (await call("GET", "/v1/operations")).operations;
export const removeOperation = ({ id }) => call("DELETE", `/v1/operations/${id}`);

export const sleep = (milliseconds = POLL_INTERVAL) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Embeds a collection by the default model, or by the one that ``options`` name, with a line in the corner.
export async function reembed(collection, onDone, options = {}) {
  const toast = createToast(`${collection}: embedding again`);
  try {
    let operation = await startOperation("reembed", collection, options);
    for (let wait = FIRST_POLL_INTERVAL; isUnfinished(operation); wait = Math.min(2 * wait, POLL_INTERVAL)) {
      toast.say(operation.state === "queued" ? "waiting" : `embedding, ${Math.round(operation.progress * 100)}%`, operation.progress);
      await sleep(wait);
      operation = await call("GET", `/v1/operations/${operation.id}`);
    }
    await removeOperation(operation);
    if (operation.error) toast.fail(operation.error);
    else toast.end("done");
    await onDone(collection);
  } catch (error) {
    toast.fail(error.message);
  }
}

// Saves a file of an operation. Links carry no key, so that with one the page fetches the file itself: straight to the
// disk where the browser can, else by way of memory.
export async function saveFile({ name, bytes, url }) {
  if (!keyHeaders().Authorization) return clickLink(url, name);
  if (bytes <= MAX_BLOB_BYTES || !window.showSaveFilePicker) {
    const blob = URL.createObjectURL(await (await request("GET", url)).blob());
    clickLink(blob, name);
    setTimeout(() => URL.revokeObjectURL(blob), 60000);
    return;
  }
  const fileHandle = await window.showSaveFilePicker({ suggestedName: name }).catch(() => null);
  if (fileHandle) await (await request("GET", url)).body.pipeTo(await fileHandle.createWritable());
}

function clickLink(href, download) {
  const link = el("a", { href, download });
  document.body.append(link);
  link.click();
  link.remove();
}
