// Which jobs there are, and what becomes of them, live. Nothing is asked again and again: the service tells.

import { collectionPath, call } from "./api.js";
import { FINISHED, followJob } from "./job_events.js";

const FAILED_STATES = ["failed", "quarantined"];
const MAX_STREAMS = 2; // a browser opens six connections to a host, of all its tabs together
const entries = new Map(); // by address
const streams = new Map();
const listeners = [];
let currentCollection = null; // the collection whose jobs come first
let sequence = 0; // of what is asked and heard, one after the other: an answer may be older than what was heard meanwhile

export const isActive = (entry) => entry.job.state === "queued" || entry.job.state === "running";
export const isFinished = (entry) => FINISHED.includes(entry.job.state);

// ``listener(entry)`` is called whenever something has happened to a job. An entry has the ``job`` as the service tells
// it, its ``collection`` and ``address``, ``failures`` by path as far as they are known, the cursors of what comes ``next``
// after them by state, in ``lost`` why nothing is heard of it at the moment, and the ``turn`` that ``job`` is of; ``isGone``
// where it went with its collection.
export const onJobChange = (listener) => listeners.push(listener);

export const jobsOf = (collection) => [...entries.values()]
  .filter((entry) => entry.collection === collection).sort((a, b) => b.job.id - a.job.id);

// The jobs of a collection as they are now: the newest, or those after ``cursor``, and all that go on. Resolves to the
// cursor of what comes after.
export async function loadJobs(collection, cursor) {
  currentCollection = collection;
  const jobs = collectionPath(collection, "jobs");
  const queries = cursor ? [`cursor=${encodeURIComponent(cursor)}`] : ["", "state=queued", "state=running"];
  const before = jobsOf(collection);
  const sentAt = ++sequence;
  const pages = await Promise.all(queries.map((query) => call("GET", `${jobs}?${query}`)));
  if (!cursor) removeMissing(before, pages[0]);
  for (const job of pages.flatMap((page) => page.jobs)) updateEntry(collection, job, sentAt);
  assignStreams();
  return pages[0].next_cursor;
}

// Pause, resume, retry or cancel it.
export async function changeJob(entry, action) {
  const sentAt = ++sequence;
  let job = action === "cancel" ? await call("DELETE", entry.address) : await call("POST", `${entry.address}/${action}`);
  if (action === "retry") {
    entry.failures.clear();
    entry.next = {};
  }
  if (entry.turn > sentAt) {
    if (streams.has(entry)) return; // which tells the rest
    job = await call("GET", entry.address);
  }
  trackJob(entry.collection, job);
}

// A job that was begun or changed here.
export function trackJob(collection, job) {
  updateEntry(collection, job, ++sequence);
  assignStreams();
}

// Some more of the files that failed, with their reasons: those that come after what was loaded before, also of what failed
// while nobody followed. Resolves to whether there may be others.
export async function loadFailures(entry) {
  const { next, job: { counts } } = entry;
  const present = FAILED_STATES.filter((state) => counts[state]);
  const withMore = present.filter((state) => next[state] !== null);
  for (const state of withMore.length ? withMore : present) {
    const query = new URLSearchParams({ state, ...(next[state] ? { cursor: next[state] } : {}) });
    const page = await call("GET", `${entry.address}/items?${query}`);
    for (const item of page.items) entry.failures.set(item.path, item);
    next[state] = page.next_cursor;
  }
  return present.some((state) => next[state] !== null);
}

// Jobs that the newest page would have if they were still there; they went with a collection that had this name before.
function removeMissing(before, { jobs, next_cursor: more }) {
  const present = new Set(jobs.map((job) => job.id));
  const oldest = more ? Math.min(...jobs.map((job) => job.id)) : 0;
  for (const entry of before) if (entry.job.id >= oldest && !present.has(entry.job.id)) removeEntry(entry);
}

function removeEntry(entry) {
  entries.delete(entry.address);
  entry.isGone = true;
  notify(entry);
}

// ``asked``: the turn in which ``job`` was asked for.
function updateEntry(collection, job, sentAt) {
  const address = collectionPath(collection, "jobs", job.id);
  const entry = entries.get(address) || { collection, address, failures: new Map(), next: {}, seen: { last: null }, lost: null, turn: 0 };
  if (entry.turn > sentAt) return;
  entries.set(address, entry);
  entry.job = job;
  entry.turn = sentAt;
  notify(entry);
}

function notify(entry) {
  for (const listener of listeners) listener(entry);
}

// Those are followed that have something to tell, as many as there are streams: what runs, then what has waited longest.
function assignStreams() {
  const selected = document.hidden ? [] : [...entries.values()].filter(isActive).sort((a, b) =>
    (b.collection === currentCollection) - (a.collection === currentCollection) || (b.job.state === "running") - (a.job.state === "running") || a.job.id - b.job.id,
  ).slice(0, MAX_STREAMS);
  for (const [entry, stream] of streams) {
    if (selected.includes(entry)) continue;
    stream.abort();
    streams.delete(entry);
  }
  for (const entry of selected) if (!streams.has(entry)) openStream(entry);
}

async function openStream(entry) {
  const stream = new AbortController();
  streams.set(entry, stream);
  try {
    await followJob(entry.address, entry.seen, (kind, data) => stream.signal.aborted || handleEvent(entry, kind, data), stream.signal);
  } catch {
    removeEntry(entry); // its collection is gone
  }
  if (streams.get(entry) === stream) streams.delete(entry);
  // What waited for it may have been begun; nobody told.
  if (currentCollection && isFinished(entry) && [...entries.values()].some(isActive)) await loadJobs(currentCollection).catch(assignStreams);
}

function handleEvent(entry, kind, data) {
  entry.lost = kind === "lost" ? data : null;
  if (kind === "item") {
    if (FAILED_STATES.includes(data.state)) entry.failures.set(data.path, data);
    else entry.failures.delete(data.path);
  } else if (kind !== "lost") {
    entry.job = data;
    entry.turn = ++sequence;
  }
  notify(entry);
  if (kind === "state") assignStreams();
}

// A tab that nobody sees takes no connection; when it is looked at again, it gets all that has happened.
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !currentCollection) assignStreams();
  else loadJobs(currentCollection).catch(assignStreams); // what can be seen already stays
});
