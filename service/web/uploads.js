// The upload queue: files are sent one after the other.

import { upload } from "./api.js";
import { keyHeaders, mediaReady, promptForKey } from "./api_key.js";
import { labelButton } from "./dom.js";
import { formatCount, formatBytes, formatRate, joinFacts } from "./format.js";
import { trackJob } from "./job_store.js";
import { announce, createToast, toastButton } from "./toasts.js";

const RATE_WINDOW = 4000; // milliseconds; window of the mean rate
const REFRESH_INTERVAL = 5000; // milliseconds between refreshes of the results
const NOT_RETRYABLE = [413, 415, 422]; // statuses for which sending the same file again cannot help
const queue = [];
let currentUpload = null;
let batch = null; // totals since the queue was last empty
let refreshedAt = 0;
const pendingRefreshes = new Map(); // collection -> callback that refreshes it

export function addUploads(collection, files, segmentation, onAdded) {
  announce(`Sending ${formatCount(files.length, "file")}`);
  for (const file of files) enqueue({ collection, file, segmentation, onAdded, toast: createToast(file.name) });
  showBatch(0);
  sendAll();
}

function enqueue(item) {
  batch ??= { files: 0, bytes: 0, ended: 0, sent: 0, outcomes: {}, rate: createRateMeter(), toast: null };
  batch.files += 1;
  batch.bytes += item.file.size;
  item.controller = new AbortController();
  item.toast.hideDismiss();
  item.toast.update("waiting", 0);
  item.toast.setActions(labelButton(item.file.name, toastButton("Cancel", () => cancel(item))));
  queue.push(item);
}

function cancel(item) {
  item.controller.abort();
  const index = queue.indexOf(item);
  if (index < 0) return; // being sent: send() does the rest
  queue.splice(index, 1);
  settle(item, 0);
}

function settle(item, sentBytes) {
  if (item.controller.signal.aborted) finish(item, "cancelled");
  batch.ended += 1;
  batch.sent += item.file.size;
  batch.rate.skip(item.file.size - sentBytes);
  showBatch(0);
}

const countOutcome = (outcome) => (batch.outcomes[outcome] = (batch.outcomes[outcome] || 0) + 1);

// Of several files, the outcomes are announced together at the end.
function finish(item, outcome, text = outcome, notes = []) {
  countOutcome(outcome);
  item.toast.finish(text, notes, batch.files > 1);
}

async function sendAll() {
  if (currentUpload) return;
  addEventListener("beforeunload", confirmUnload);
  while ((currentUpload = queue.shift())) await send(currentUpload);
  removeEventListener("beforeunload", confirmUnload);
  batch.toast?.remove();
  if (batch.files > 1) announce(`${formatCount(batch.files, "file")}: ${Object.entries(batch.outcomes).map(([outcome, number]) => `${number} ${outcome}`).join(", ")}`);
  batch = null;
  await refreshAdded();
}

const confirmUnload = (event) => event.preventDefault();

async function send(item) {
  const { collection, file, segmentation, toast, controller: { signal } } = item;
  const rate = createRateMeter();
  let sentBytes = 0;
  const onProgress = (loaded, total) => {
    sentBytes = Math.round(file.size * Math.min(1, loaded / total));
    if (sentBytes < file.size) toast.update(joinFacts(`${formatBytes(sentBytes)} of ${formatBytes(file.size)}`, formatRate(rate.at(sentBytes), file.size - sentBytes)), sentBytes / file.size);
    else toast.update("indexing…", 1);
    showBatch(sentBytes);
  };
  try {
    await mediaReady;
    while (!signal.aborted) {
      const key = keyHeaders().Authorization;
      try {
        const { video, created, job } = await upload(collection, file, segmentation, onProgress, signal);
        if (job) {
          countOutcome("indexing");
          if (batch.files === 1) announce(`${file.name}: indexing`);
          toast.remove(); // the job's toast replaces this one, and the next file can start
          trackJob(collection, job);
          break;
        }
        if (created) finish(item, "added", `added, ${formatCount(video.clips, "clip")}`, video.notes);
        else finish(item, "already added", "already in the collection", video.notes);
        pendingRefreshes.set(collection, item.onAdded);
        break;
      } catch (error) {
        if (error.status === 401) await promptForKey(key, error.message);
        else if (error.isBusy) await waitUntilRetry(error, toast, signal);
        else throw error;
      }
    }
  } catch (error) {
    const retry = () => (enqueue(item), sendAll());
    if (!signal.aborted) {
      countOutcome("failed");
      toast.fail(error.message, ...(NOT_RETRYABLE.includes(error.status) ? [] : [labelButton(file.name, toastButton("Try again", retry))]));
    }
  }
  settle(item, sentBytes);
  if (Date.now() - refreshedAt > REFRESH_INTERVAL) await refreshAdded();
}

// Wait as long as the service asks, in Retry-After.
async function waitUntilRetry(error, toast, signal) {
  for (let secondsLeft = Math.ceil(error.retryAfter) || 2; secondsLeft > 0 && !signal.aborted; secondsLeft -= 1) {
    toast.update(`service busy; retrying in ${secondsLeft} s`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function refreshAdded() {
  refreshedAt = Date.now();
  const refreshes = [...pendingRefreshes];
  pendingRefreshes.clear();
  for (const [collection, onAdded] of refreshes) await onAdded(collection).catch(() => {}); // the next request reports the error
}

function showBatch(currentBytes) {
  if (!batch || batch.files < 2) return;
  batch.toast ??= createToast("All files", toastButton("Cancel all", () => {
    for (const item of [...queue, currentUpload]) cancel(item);
  }));
  const sentBytes = Math.min(batch.bytes, batch.sent + currentBytes);
  const ratio = batch.bytes ? sentBytes / batch.bytes : 1;
  batch.toast.update(joinFacts(`${batch.ended} of ${formatCount(batch.files, "file")}`, `${Math.floor(100 * ratio)}%`, formatRate(batch.rate.at(sentBytes), batch.bytes - sentBytes)), ratio);
}

// Bytes per second over the last seconds; ``skip`` excludes bytes that were not sent.
function createRateMeter() {
  const points = [];
  let skipped = 0;
  return {
    skip: (bytes) => (skipped += bytes),
    at(bytes) {
      const now = performance.now();
      points.push([now, bytes - skipped]);
      while (points.length > 2 && now - points[0][0] > RATE_WINDOW) points.shift();
      const seconds = (now - points[0][0]) / 1000;
      return seconds > 0.3 ? (bytes - skipped - points[0][1]) / seconds : 0;
    },
  };
}
