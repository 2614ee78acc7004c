// Operations on whole collections: backup, export, re-embedding.

import { call, request } from "./api.js";
import { keyHeaders } from "./api_key.js";
import { el } from "./dom.js";
import { createToast } from "./toasts.js";

const POLL_INTERVAL = 1000; // milliseconds; operations have no event stream
const FIRST_POLL_INTERVAL = 100; // small collections finish this soon
const MAX_BLOB_BYTES = 200e6; // bytes; larger downloads are streamed to disk if the browser can

export const isUnfinished = ({ state }) => state === "queued" || state === "running";
export const startOperation = (kind, collection, options = {}) => call("POST", "/v1/operations", { kind, collection, ...options });
export const listOperations = async () => (await call("GET", "/v1/operations")).operations;
export const removeOperation = ({ id }) => call("DELETE", `/v1/operations/${id}`);

export const sleep = (milliseconds = POLL_INTERVAL) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Re-embed a collection with the default model, or the one in ``options``; progress is shown in a toast.
export async function reembed(collection, onDone, options = {}) {
  const toast = createToast(`Re-embedding ${collection}`);
  try {
    let operation = await startOperation("reembed", collection, options);
    for (let wait = FIRST_POLL_INTERVAL; isUnfinished(operation); wait = Math.min(2 * wait, POLL_INTERVAL)) {
      toast.update(operation.state === "queued" ? "waiting" : `embedding, ${Math.round(operation.progress * 100)}%`, operation.progress);
      await sleep(wait);
      operation = await call("GET", `/v1/operations/${operation.id}`);
    }
    await removeOperation(operation);
    if (operation.error) toast.fail(operation.error);
    else toast.finish("done");
    await onDone(collection);
  } catch (error) {
    toast.fail(error.message);
  }
}

// Save a file of an operation. Links send no key, so with a key the page fetches it: to disk if the browser can, or through memory.
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
