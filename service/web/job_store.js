// The jobs of collections, kept up to date by their event streams.

import { call, collectionPath } from "./api.js";
import { FINISHED, followJob } from "./job_events.js";

const FAILED_STATES = ["failed", "quarantined"];
const MAX_STREAMS = 2; // browsers open six connections to a host, for all tabs together
const entries = new Map(); // by path
const streams = new Map();
const listeners = [];
let currentCollection = null; // its jobs are followed first
let sequence = 0; // orders responses and events: a response may be older than an event received meanwhile

export const isActive = (entry) => entry.job.state === "queued" || entry.job.state === "running";
export const isFinished = (entry) => FINISHED.includes(entry.job.state);

// ``listener(entry)`` is called when a job changes. An entry has ``job``, as in the API; ``failures`` by path, as far as they are
// loaded; ``next``, the cursors of further ones by state; ``lost``, the connection error; ``isGone`` if its collection was deleted.
export const onJobChange = (listener) => listeners.push(listener);

export const jobsOf = (collection) => [...entries.values()]
  .filter((entry) => entry.collection === collection).sort((a, b) => b.job.id - a.job.id);

// Load the newest jobs of a collection, or those after ``cursor``, and all unfinished ones. Resolves to the next cursor.
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

// Pause, resume, retry or cancel a job.
export async function changeJob(entry, action) {
  const sentAt = ++sequence;
  let job = action === "cancel" ? await call("DELETE", entry.address) : await call("POST", `${entry.address}/${action}`);
  if (action === "retry") {
    entry.failures.clear();
    entry.next = {};
  }
  if (entry.sequence > sentAt) {
    if (streams.has(entry)) return; // its stream reports the rest
    job = await call("GET", entry.address);
  }
  trackJob(entry.collection, job);
}

// Add a job that was started or changed here.
export function trackJob(collection, job) {
  updateEntry(collection, job, ++sequence);
  assignStreams();
}

// Load further failed files with their reasons. Resolves to whether there may be more.
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

// Remove jobs that the newest page lacks: they belonged to a deleted collection of this name.
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

// ``sentAt``: sequence number of the request.
function updateEntry(collection, job, sentAt) {
  const address = collectionPath(collection, "jobs", job.id);
  const entry = entries.get(address) || { collection, address, failures: new Map(), next: {}, position: { lastEventId: null }, lost: null, sequence: 0 };
  if (entry.sequence > sentAt) return;
  entries.set(address, entry);
  entry.job = job;
  entry.sequence = sentAt;
  notify(entry);
}

function notify(entry) {
  for (const listener of listeners) listener(entry);
}

// Follow unfinished jobs, up to MAX_STREAMS: running ones first, then the oldest.
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
    await followJob(entry.address, entry.position, (kind, data) => stream.signal.aborted || handleEvent(entry, kind, data), stream.signal);
  } catch {
    removeEntry(entry); // its collection is gone
  }
  if (streams.get(entry) === stream) streams.delete(entry);
  // A queued job may have started.
  if (currentCollection && isFinished(entry) && [...entries.values()].some(isActive)) await loadJobs(currentCollection).catch(assignStreams);
}

function handleEvent(entry, kind, data) {
  entry.lost = kind === "lost" ? data : null;
  if (kind === "item") {
    if (FAILED_STATES.includes(data.state)) entry.failures.set(data.path, data);
    else entry.failures.delete(data.path);
  } else if (kind !== "lost") {
    entry.job = data;
    entry.sequence = ++sequence;
  }
  notify(entry);
  if (kind === "state") assignStreams();
}

// A hidden tab keeps no connection; shown again, it loads all changes.
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !currentCollection) assignStreams();
  else loadJobs(currentCollection).catch(assignStreams); // keep what is shown
});
