// Which jobs there are, and what becomes of them, live. Nothing is asked again and again: the service tells.

import { at, call } from "./api.js";
import { FINISHED, follow } from "./events.js";

const FAILED = ["failed", "quarantined"];
const STREAMS = 2; // a browser opens six connections to a host, of all its tabs together
const known = new Map(); // by address
const streams = new Map();
const listeners = [];
let looksAt = null; // the collection whose jobs come first
let turn = 0; // of what is asked and heard, one after the other: an answer may be older than what was heard meanwhile

export const isActive = (entry) => entry.job.state === "queued" || entry.job.state === "running";
export const isFinished = (entry) => FINISHED.includes(entry.job.state);

// ``listener(entry)`` is called whenever something has happened to a job. An entry has the ``job`` as the service tells
// it, its ``collection`` and ``address``, ``failures`` by path as far as they are known, the cursors of what comes ``next``
// after them by state, in ``lost`` why nothing is heard of it at the moment, and the ``turn`` that ``job`` is of; ``isGone``
// where it went with its collection.
export const onJobs = (listener) => listeners.push(listener);

export const jobsOf = (collection) => [...known.values()]
  .filter((entry) => entry.collection === collection).sort((a, b) => b.job.id - a.job.id);

// The jobs of a collection as they are now: the newest, or those after ``cursor``, and all that go on. Resolves to the
// cursor of what comes after.
export async function lookAtJobs(collection, cursor) {
  looksAt = collection;
  const jobs = at(collection, "jobs");
  const queries = cursor ? [`cursor=${encodeURIComponent(cursor)}`] : ["", "state=queued", "state=running"];
  const before = jobsOf(collection);
  const asked = ++turn;
  const pages = await Promise.all(queries.map((query) => call("GET", `${jobs}?${query}`)));
  if (!cursor) forgetGone(before, pages[0]);
  for (const job of pages.flatMap((page) => page.jobs)) learn(collection, job, asked);
  share();
  return pages[0].next_cursor;
}

// Pause, resume, retry or cancel it.
export async function change(entry, what) {
  const asked = ++turn;
  let job = what === "cancel" ? await call("DELETE", entry.address) : await call("POST", `${entry.address}/${what}`);
  if (what === "retry") {
    entry.failures.clear();
    entry.next = {};
  }
  if (entry.turn > asked) {
    if (streams.has(entry)) return; // which tells the rest
    job = await call("GET", entry.address);
  }
  take(entry.collection, job);
}

// A job that was begun or changed here.
export function take(collection, job) {
  learn(collection, job, ++turn);
  share();
}

// Some more of the files that failed, with their reasons: those that come after what was loaded before, also of what failed
// while nobody followed. Resolves to whether there may be others.
export async function loadFailures(entry) {
  const { next, job: { counts } } = entry;
  const there = FAILED.filter((state) => counts[state]);
  const unfinished = there.filter((state) => next[state] !== null);
  for (const state of unfinished.length ? unfinished : there) {
    const query = new URLSearchParams({ state, ...(next[state] ? { cursor: next[state] } : {}) });
    const page = await call("GET", `${entry.address}/items?${query}`);
    for (const item of page.items) entry.failures.set(item.path, item);
    next[state] = page.next_cursor;
  }
  return there.some((state) => next[state] !== null);
}

// Jobs that the newest page would have if they were still there; they went with a collection that had this name before.
function forgetGone(before, { jobs, next_cursor: more }) {
  const there = new Set(jobs.map((job) => job.id));
  const oldest = more ? Math.min(...jobs.map((job) => job.id)) : 0;
  for (const entry of before) if (entry.job.id >= oldest && !there.has(entry.job.id)) forget(entry);
}

function forget(entry) {
  known.delete(entry.address);
  entry.isGone = true;
  tell(entry);
}

// ``asked``: the turn in which ``job`` was asked for.
function learn(collection, job, asked) {
  const address = at(collection, "jobs", job.id);
  const entry = known.get(address) || { collection, address, failures: new Map(), next: {}, seen: { last: null }, lost: null, turn: 0 };
  if (entry.turn > asked) return;
  known.set(address, entry);
  entry.job = job;
  entry.turn = asked;
  tell(entry);
}

function tell(entry) {
  for (const listener of listeners) listener(entry);
}

// Those are followed that have something to tell, as many as there are streams: what runs, then what has waited longest.
function share() {
  const wanted = document.hidden ? [] : [...known.values()].filter(isActive).sort((a, b) =>
    (b.collection === looksAt) - (a.collection === looksAt) || (b.job.state === "running") - (a.job.state === "running") || a.job.id - b.job.id,
  ).slice(0, STREAMS);
  for (const [entry, stream] of streams) {
    if (wanted.includes(entry)) continue;
    stream.abort();
    streams.delete(entry);
  }
  for (const entry of wanted) if (!streams.has(entry)) begin(entry);
}

async function begin(entry) {
  const stream = new AbortController();
  streams.set(entry, stream);
  try {
    await follow(entry.address, entry.seen, (kind, data) => stream.signal.aborted || hear(entry, kind, data), stream.signal);
  } catch {
    forget(entry); // its collection is gone
  }
  if (streams.get(entry) === stream) streams.delete(entry);
  // What waited for it may have been begun; nobody told.
  if (looksAt && isFinished(entry) && [...known.values()].some(isActive)) await lookAtJobs(looksAt).catch(share);
}

function hear(entry, kind, data) {
  entry.lost = kind === "lost" ? data : null;
  if (kind === "item") {
    if (FAILED.includes(data.state)) entry.failures.set(data.path, data);
    else entry.failures.delete(data.path);
  } else if (kind !== "lost") {
    entry.job = data;
    entry.turn = ++turn;
  }
  tell(entry);
  if (kind === "state") share();
}

// A tab that nobody sees takes no connection; when it is looked at again, it gets all that has happened.
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !looksAt) share();
  else lookAtJobs(looksAt).catch(share); // what can be seen already stays
});
