// Jobs that go on: a line in the corner for each, and their number at the top.

import { chosenName } from "./collections.js";
import { announce, line, small } from "./notices.js";
import { $, of } from "./parts.js";
import { openSheet } from "./sheet.js";
import { isActive, isFinished, jobsOf, loadFailures, lookAtJobs, onJobs } from "./watching.js";
import { count, facts, lasting } from "./words.js";

const NAMED = 3; // failures in the corner
const notices = new Map(); // by entry

// Where a job's videos come from: all of it, and the last part, by which people know it.
export function sourceOf({ job }) {
  const { folder, file, url, files, shards } = job.source;
  const several = files || shards || [];
  return [folder || file || url || several[0] || `job ${job.id}`, several.length > 1 ? ` and ${several.length - 1} more` : ""];
}

export function nameOf(entry) {
  const [first, more] = sourceOf(entry);
  return (first.replace(/\/+$/, "").split("/").pop() || first) + more;
}

const inPart = (job) => job.progress * job.total > job.done + 1e-6; // of a long file

export function progress({ job, lost }) {
  if (lost) return `${lost.message} It is tried again.`;
  const { rate } = job;
  return facts(
    job.requested ? { pause: "pauses", cancel: "ends" }[job.requested] + " after the files at hand" : "",
    job.total ? `${job.done.toLocaleString("en")} of ${count(job.total, "file")}` : isActive({ job }) ? "looking what there is" : "",
    isActive({ job }) && inPart(job) ? `${Math.floor(100 * job.progress)}%` : "",
    isActive({ job }) && rate?.items >= 0.05 ? `${rate.items.toFixed(1)} files/s` : "",
    isActive({ job }) && rate?.seconds_left ? `about ${lasting(rate.seconds_left)} left` : "",
  );
}

export const became = ({ succeeded, skipped, failed, quarantined, cancelled }, separator) => [
  [succeeded, "added"], [skipped, "skipped"], [failed, "failed"], [quarantined, "put aside"], [cancelled, "not tried"],
].filter(([number]) => number).map(([number, what]) => `${number.toLocaleString("en")} ${what}`).join(separator);

// In the corner

const details = (entry) => of(nameOf(entry), small("Details", () => openSheet("jobs")));

function notice(entry, onAdded) {
  let mine = notices.get(entry);
  if (entry.isGone) {
    mine?.shown.remove();
    notices.delete(entry);
    return;
  }
  if (!mine && !isActive(entry)) return;
  if (!mine) {
    mine = { added: entry.job.counts.succeeded, shown: line(nameOf(entry), details(entry)) };
    notices.set(entry, mine);
  }
  const { job } = entry;
  // Not at every file: whoever looks at the page should not lose the place.
  if (!mine.added && job.counts.succeeded && isActive(entry)) onAdded(entry.collection);
  mine.added = job.counts.succeeded;
  if (!isFinished(entry)) {
    mine.shown.say(facts(job.state, progress(entry)), job.progress);
    return;
  }
  notices.delete(entry);
  finish(entry, mine.shown);
  onAdded(entry.collection);
}

async function finish(entry, shown) {
  const { job } = entry;
  const failed = job.counts.failed + job.counts.quarantined;
  if (job.error) return shown.fail(job.error);
  if (!failed) return shown.end(`${job.state}: ${became(job.counts, ", ") || "nothing to add"}`);
  if (entry.failures.size < Math.min(failed, NAMED)) await loadFailures(entry).catch(() => {}); // the count is true without
  const reasons = [...entry.failures.values()].slice(0, NAMED).map((item) => item.reason);
  shown.fail([became(job.counts, ", "), ...reasons].join("; "), details(entry));
}

export function prepareJobs(onAdded) {
  const states = new Map();
  const show = (collection) => onAdded(collection).catch(() => {}); // whoever looks next is told what is wrong
  onJobs((entry) => {
    notice(entry, show);
    const state = isActive(entry) ? "under way" : entry.job.state;
    if (states.has(entry) && states.get(entry) !== state && !isFinished(entry)) announce(`${nameOf(entry)}: ${state}`);
    states.set(entry, state);
    showCount();
  });
  $("open-jobs").onclick = () => openSheet("jobs");
}

function showCount() {
  const active = chosenName() ? jobsOf(chosenName()).filter(isActive).length : 0;
  $("job-count").textContent = active || "";
  $("open-jobs").setAttribute("aria-label", active ? `Jobs, ${active} under way` : "Jobs");
}

// Those of another collection from now on.
export function followJobs() {
  if (!chosenName()) return;
  lookAtJobs(chosenName()).then(showCount, () => {}); // what is shown besides says what is wrong
}
