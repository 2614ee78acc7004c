// Files on their way to the service, one after the other.

import { upload } from "./api.js";
import { promptForKey, keyHeaders, mediaReady } from "./api_key.js";
import { announce, createToast, toastButton } from "./toasts.js";
import { labelButton } from "./dom.js";
import { trackJob } from "./job_store.js";
import { count, joinFacts, formatRate, formatBytes } from "./format.js";

const RATE_WINDOW = 4000; // milliseconds over which the speed is a mean
const REFRESH_INTERVAL = 5000; // what was added, so that whoever looks at the page does not lose the place all the time
const NOT_RETRYABLE = [413, 415, 422]; // the same file would be refused again
const queue = [];
let currentUpload = null;
let batch = null; // of all files since there was nothing to do
let refreshedAt = 0;
const pendingRefreshes = new Map(); // collections with something new, and who shows it

export function addUploads(collection, files, segmentation, onAdded) {
  announce(`Sending ${count(files.length, "file")}`);
  for (const file of files) enqueue({ collection, file, cut: segmentation, onAdded, shown: createToast(file.name) });
  showBatch(0);
  sendAll();
}

function enqueue(item) {
  batch ??= { files: 0, bytes: 0, ended: 0, sent: 0, became: {}, pace: createRateMeter(), shown: null };
  batch.files += 1;
  batch.bytes += item.file.size;
  item.breaking = new AbortController();
  item.shown.hold();
  item.shown.say("waiting", 0);
  item.shown.offer(labelButton(item.file.name, toastButton("Cancel", () => cancel(item))));
  queue.push(item);
}

function cancel(item) {
  item.breaking.abort();
  const index = queue.indexOf(item);
  if (index < 0) return; // under way: send() says the rest
  queue.splice(index, 1);
  settle(item, 0);
}

function settle(item, sentBytes) {
  if (item.breaking.signal.aborted) finish(item, "cancelled");
  batch.ended += 1;
  batch.sent += item.file.size;
  batch.pace.skip(item.file.size - sentBytes);
  showBatch(0);
}

const countOutcome = (outcome) => (batch.became[outcome] = (batch.became[outcome] || 0) + 1);

// Of many files it is said at the end what became of them all.
function finish(item, outcome, text = outcome, notes = []) {
  countOutcome(outcome);
  item.shown.end(text, notes, batch.files > 1);
}

async function sendAll() {
  if (currentUpload) return;
  addEventListener("beforeunload", confirmUnload);
  while ((currentUpload = queue.shift())) await send(currentUpload);
  removeEventListener("beforeunload", confirmUnload);
  batch.shown?.remove();
  if (batch.files > 1) announce(`${count(batch.files, "file")}: ${Object.entries(batch.became).map(([outcome, number]) => `${number} ${outcome}`).join(", ")}`);
  batch = null;
  await refreshAdded();
}

const confirmUnload = (event) => event.preventDefault();

async function send(item) {
  const { collection, file, cut: segmentation, shown, breaking: { signal } } = item;
  const rate = createRateMeter();
  let sentBytes = 0;
  const onProgress = (loaded, total) => {
    sentBytes = Math.round(file.size * Math.min(1, loaded / total));
    if (sentBytes < file.size) shown.say(joinFacts(`${formatBytes(sentBytes)} of ${formatBytes(file.size)}`, formatRate(rate.at(sentBytes), file.size - sentBytes)), sentBytes / file.size);
    else shown.say("indexing…", 1);
    showBatch(sentBytes);
  };
  try {
    await mediaReady;
    while (!signal.aborted) {
      const key = keyHeaders().Authorization;
      try {
        const { video, created, job } = await upload(collection, file, segmentation, onProgress, signal);
        if (job) {
          countOutcome("being indexed");
          if (batch.files === 1) announce(`${file.name}: being indexed`);
          shown.remove(); // the job's line takes its place, and the next file need not wait
          trackJob(collection, job);
          break;
        }
        if (created) finish(item, "added", `added, ${count(video.clips, "clip")}`, video.notes);
        else finish(item, "there already", "was there already", video.notes);
        pendingRefreshes.set(collection, item.onAdded);
        break;
      } catch (error) {
        if (error.status === 401) await promptForKey(key);
        else if (error.isBusy) await waitUntilRetry(error, shown, signal);
        else throw error;
      }
    }
  } catch (error) {
    const retry = () => (enqueue(item), sendAll());
    if (!signal.aborted) {
      countOutcome("failed");
      shown.fail(error.message, ...(NOT_RETRYABLE.includes(error.status) ? [] : [labelButton(file.name, toastButton("Try again", retry))]));
    }
  }
  settle(item, sentBytes);
  if (Date.now() - refreshedAt > REFRESH_INTERVAL) await refreshAdded();
}

// The service has too much to do, and says when to come back.
async function waitUntilRetry(error, shown, signal) {
  for (let secondsLeft = Math.ceil(error.wait) || 2; secondsLeft > 0 && !signal.aborted; secondsLeft -= 1) {
    shown.say(`the service is busy; goes on in ${secondsLeft} s`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function refreshAdded() {
  refreshedAt = Date.now();
  const refreshes = [...pendingRefreshes];
  pendingRefreshes.clear();
  for (const [collection, onAdded] of refreshes) await onAdded(collection).catch(() => {}); // whoever looks next is told
}

function showBatch(currentBytes) {
  if (!batch || batch.files < 2) return;
  batch.shown ??= createToast("All files", toastButton("Cancel all", () => {
    for (const item of [...queue, currentUpload]) cancel(item);
  }));
  const sentBytes = Math.min(batch.bytes, batch.sent + currentBytes);
  const ratio = batch.bytes ? sentBytes / batch.bytes : 1;
  batch.shown.say(joinFacts(`${batch.ended} of ${count(batch.files, "file")}`, `${Math.floor(100 * ratio)}%`, formatRate(batch.pace.at(sentBytes), batch.bytes - sentBytes)), ratio);
}

// Bytes a second over the last moments; ``skip`` leaves out bytes that nobody sent.
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
