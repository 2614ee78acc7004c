// Files on their way to the service, one after the other.

import { upload } from "./api.js";
import { askForKey, keyHeaders, ready } from "./keys.js";
import { announce, line, small } from "./notices.js";
import { of } from "./parts.js";
import { take } from "./watching.js";
import { count, facts, pace, size } from "./words.js";

const WINDOW = 4000; // milliseconds over which the speed is a mean
const SHOWN_EVERY = 5000; // what was added, so that whoever looks at the page does not lose the place all the time
const HOPELESS = [413, 415, 422]; // the same file would be refused again
const waiting = [];
let sending = null;
let whole = null; // of all files since there was nothing to do
let shownAt = 0;
const unshown = new Map(); // collections with something new, and who shows it

export function addUploads(collection, files, cut, onAdded) {
  announce(`Sending ${count(files.length, "file")}`);
  for (const file of files) enqueue({ collection, file, cut, onAdded, shown: line(file.name) });
  showWhole(0);
  sendAll();
}

function enqueue(item) {
  whole ??= { files: 0, bytes: 0, ended: 0, sent: 0, became: {}, pace: meter(), shown: null };
  whole.files += 1;
  whole.bytes += item.file.size;
  item.breaking = new AbortController();
  item.shown.hold();
  item.shown.say("waiting", 0);
  item.shown.offer(of(item.file.name, small("Cancel", () => cancel(item))));
  waiting.push(item);
}

function cancel(item) {
  item.breaking.abort();
  const place = waiting.indexOf(item);
  if (place < 0) return; // under way: send() says the rest
  waiting.splice(place, 1);
  isOver(item, 0);
}

function isOver(item, sent) {
  if (item.breaking.signal.aborted) ended(item, "cancelled");
  whole.ended += 1;
  whole.sent += item.file.size;
  whole.pace.skip(item.file.size - sent);
  showWhole(0);
}

const tally = (what) => (whole.became[what] = (whole.became[what] || 0) + 1);

// Of many files it is said at the end what became of them all.
function ended(item, what, text = what, notes = []) {
  tally(what);
  item.shown.end(text, notes, whole.files > 1);
}

async function sendAll() {
  if (sending) return;
  addEventListener("beforeunload", asksFirst);
  while ((sending = waiting.shift())) await send(sending);
  removeEventListener("beforeunload", asksFirst);
  whole.shown?.remove();
  if (whole.files > 1) announce(`${count(whole.files, "file")}: ${Object.entries(whole.became).map(([what, number]) => `${number} ${what}`).join(", ")}`);
  whole = null;
  await showAdded();
}

const asksFirst = (event) => event.preventDefault();

async function send(item) {
  const { collection, file, cut, shown, breaking: { signal } } = item;
  const own = meter();
  let sent = 0;
  const onProgress = (loaded, total) => {
    sent = Math.round(file.size * Math.min(1, loaded / total));
    if (sent < file.size) shown.say(facts(`${size(sent)} of ${size(file.size)}`, pace(own.at(sent), file.size - sent)), sent / file.size);
    else shown.say("indexing…", 1);
    showWhole(sent);
  };
  try {
    await ready;
    while (!signal.aborted) {
      const key = keyHeaders().Authorization;
      try {
        const { video, created, job } = await upload(collection, file, cut, onProgress, signal);
        if (job) {
          tally("being indexed");
          if (whole.files === 1) announce(`${file.name}: being indexed`);
          shown.remove(); // the job's line takes its place, and the next file need not wait
          take(collection, job);
          break;
        }
        if (created) ended(item, "added", `added, ${count(video.clips, "clip")}`, video.notes);
        else ended(item, "there already", "was there already", video.notes);
        unshown.set(collection, item.onAdded);
        break;
      } catch (error) {
        if (error.status === 401) await askForKey(key);
        else if (error.isBusy) await outwait(error, shown, signal);
        else throw error;
      }
    }
  } catch (error) {
    const again = () => (enqueue(item), sendAll());
    if (!signal.aborted) {
      tally("failed");
      shown.fail(error.message, ...(HOPELESS.includes(error.status) ? [] : [of(file.name, small("Try again", again))]));
    }
  }
  isOver(item, sent);
  if (Date.now() - shownAt > SHOWN_EVERY) await showAdded();
}

// The service has too much to do, and says when to come back.
async function outwait(error, shown, signal) {
  for (let left = Math.ceil(error.wait) || 2; left > 0 && !signal.aborted; left -= 1) {
    shown.say(`the service is busy; goes on in ${left} s`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function showAdded() {
  shownAt = Date.now();
  const shows = [...unshown];
  unshown.clear();
  for (const [collection, onAdded] of shows) await onAdded(collection).catch(() => {}); // whoever looks next is told
}

function showWhole(sentOfThis) {
  if (!whole || whole.files < 2) return;
  whole.shown ??= line("All files", small("Cancel all", () => {
    for (const item of [...waiting, sending]) cancel(item);
  }));
  const sent = Math.min(whole.bytes, whole.sent + sentOfThis);
  const share = whole.bytes ? sent / whole.bytes : 1;
  whole.shown.say(facts(`${whole.ended} of ${count(whole.files, "file")}`, `${Math.floor(100 * share)}%`, pace(whole.pace.at(sent), whole.bytes - sent)), share);
}

// Bytes a second over the last moments; ``skip`` leaves out bytes that nobody sent.
function meter() {
  const points = [];
  let skipped = 0;
  return {
    skip: (bytes) => (skipped += bytes),
    at(bytes) {
      const now = performance.now();
      points.push([now, bytes - skipped]);
      while (points.length > 2 && now - points[0][0] > WINDOW) points.shift();
      const seconds = (now - points[0][0]) / 1000;
      return seconds > 0.3 ? (bytes - skipped - points[0][1]) / seconds : 0;
    },
  };
}
