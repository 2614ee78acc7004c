// Jobs that go on: a line in the corner for each, and their number at the top.

import { currentName } from "./collections.js";
import { announce, createToast, toastButton } from "./toasts.js";
import { $, labelButton } from "./dom.js";
import { openPanel } from "./side_panel.js";
import { isActive, isFinished, jobsOf, loadFailures, loadJobs, onJobChange } from "./job_store.js";
import { count, joinFacts, formatDuration } from "./format.js";

const MAX_REASONS = 3; // failures in the corner
const notices = new Map(); // by entry

// Where a job's videos come from: all of it, and the last part, by which people know it.
export function sourceName({ job }) {
  const { folder, file, url, files, shards } = job.source;
  const several = files || shards || [];
  return [folder || file || url || several[0] || `job ${job.id}`, several.length > 1 ? ` and ${several.length - 1} more` : ""];
}

export function jobName(entry) {
  const [first, more] = sourceName(entry);
  return (first.replace(/\/+$/, "").split("/").pop() || first) + more;
}

const isInsideFile = (job) => job.progress * job.total > job.done + 1e-6; // of a long file

export function progressText({ job, lost }) {
  if (lost) return `${lost.message} It is tried again.`;
  const { rate } = job;
  return joinFacts(
    job.requested ? { pause: "pauses", cancel: "ends" }[job.requested] + " after the files at hand" : "",
    job.total ? `${job.done.toLocaleString("en")} of ${count(job.total, "file")}` : isActive({ job }) ? "looking what there is" : "",
    isActive({ job }) && isInsideFile(job) ? `${Math.floor(100 * job.progress)}%` : "",
    isActive({ job }) && rate?.items >= 0.05 ? `${rate.items.toFixed(1)} files/s` : "",
    isActive({ job }) && rate?.seconds_left ? `about ${formatDuration(rate.seconds_left)} left` : "",
  );
}

export const outcomeText = ({ succeeded, skipped, failed, quarantined, cancelled }, separator) => [
  [succeeded, "added"], [skipped, "skipped"], [failed, "failed"], [quarantined, "put aside"], [cancelled, "not tried"],
].filter(([number]) => number).map(([number, what]) => `${number.toLocaleString("en")} ${what}`).join(separator);

// In the corner

const details = (entry) => labelButton(jobName(entry), toastButton("Details", () => openPanel("jobs")));

function updateToast(entry, onAdded) {
  let toast = notices.get(entry);
  if (entry.isGone) {
    toast?.shown.remove();
    notices.delete(entry);
    return;
  }
  if (!toast && !isActive(entry)) return;
  if (!toast) {
    toast = { added: entry.job.counts.succeeded, shown: createToast(jobName(entry), details(entry)) };
    notices.set(entry, toast);
  }
  const { job } = entry;
  // Not at every file: whoever looks at the page should not lose the place.
  if (!toast.added && job.counts.succeeded && isActive(entry)) onAdded(entry.collection);
  toast.added = job.counts.succeeded;
  if (!isFinished(entry)) {
    toast.shown.say(joinFacts(job.state, progressText(entry)), job.progress);
    return;
  }
  notices.delete(entry);
  finish(entry, toast.shown);
  onAdded(entry.collection);
}

async function finish(entry, shown) {
  const { job } = entry;
  const failed = job.counts.failed + job.counts.quarantined;
  if (job.error) return shown.fail(job.error);
  if (!failed) return shown.end(`${job.state}: ${outcomeText(job.counts, ", ") || "nothing to add"}`);
  if (entry.failures.size < Math.min(failed, MAX_REASONS)) await loadFailures(entry).catch(() => {}); // the count is true without
  const reasons = [...entry.failures.values()].slice(0, MAX_REASONS).map((item) => item.reason);
  shown.fail([outcomeText(job.counts, ", "), ...reasons].join("; "), details(entry));
}

export function prepareJobs(onAdded) {
  const states = new Map();
  const refresh = (collection) => onAdded(collection).catch(() => {}); // whoever looks next is told what is wrong
  onJobChange((entry) => {
    updateToast(entry, refresh);
    const state = isActive(entry) ? "under way" : entry.job.state;
    if (states.has(entry) && states.get(entry) !== state && !isFinished(entry)) announce(`${jobName(entry)}: ${state}`);
    states.set(entry, state);
    showActiveCount();
  });
  $("open-jobs").onclick = () => openPanel("jobs");
}

function showActiveCount() {
  const active = currentName() ? jobsOf(currentName()).filter(isActive).length : 0;
  $("job-count").textContent = active || "";
  $("open-jobs").setAttribute("aria-label", active ? `Jobs, ${active} under way` : "Jobs");
}

// Those of another collection from now on.
export function followJobs() {
  if (!currentName()) return;
  loadJobs(currentName()).then(showActiveCount, () => {}); // what is shown besides says what is wrong
}
