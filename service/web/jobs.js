// Active jobs: a toast for each, and their number in the header.

import { currentName } from "./collections.js";
import { $, labelButton } from "./dom.js";
import { formatCount, formatDuration, joinFacts } from "./format.js";
import { isActive, isFinished, jobsOf, loadFailures, loadJobs, onJobChange } from "./job_store.js";
import { openPanel } from "./side_panel.js";
import { announce, createToast, toastButton } from "./toasts.js";

const MAX_REASONS = 3; // failures named in a toast
const toasts = new Map(); // by entry

// The source of a job's videos: the whole name, and its last part.
export function sourceName({ job }) {
  const { folder, file, url, files, shards } = job.source;
  const several = files || shards || [];
  return [folder || file || url || several[0] || `job ${job.id}`, several.length > 1 ? ` and ${several.length - 1} more` : ""];
}

export function jobName(entry) {
  const [first, more] = sourceName(entry);
  return (first.replace(/\/+$/, "").split("/").pop() || first) + more;
}

const isInsideFile = (job) => job.progress * job.total > job.done + 1e-6; // inside a long file

export function progressText({ job, lost }) {
  if (lost) return `${lost.message} Retrying.`;
  const { rate } = job;
  return joinFacts(
    job.requested ? { pause: "pausing", cancel: "cancelling" }[job.requested] + " after the current files" : "",
    job.total ? `${job.done.toLocaleString("en")} of ${formatCount(job.total, "file")}` : isActive({ job }) ? "scanning" : "",
    isActive({ job }) && isInsideFile(job) ? `${Math.floor(100 * job.progress)}%` : "",
    isActive({ job }) && rate?.items >= 0.05 ? `${rate.items.toFixed(1)} files/s` : "",
    isActive({ job }) && rate?.seconds_left ? `about ${formatDuration(rate.seconds_left)} left` : "",
  );
}

export const outcomeText = ({ counts: { succeeded, refreshed, skipped, failed, quarantined, cancelled }, duplicates }, separator) => [
  [succeeded, "added"], [refreshed, "refreshed"], [duplicates, "already indexed"], [skipped - duplicates, "not media"], [failed, "failed"], [quarantined, "quarantined"], [cancelled, "cancelled"],
].filter(([number]) => number).map(([number, label]) => `${number.toLocaleString("en")} ${label}`).join(separator);

// Toasts

const details = (entry) => labelButton(jobName(entry), toastButton("Details", () => openPanel("jobs")));

function updateToast(entry, onAdded) {
  let toast = toasts.get(entry);
  if (entry.isGone) {
    toast?.line.remove();
    toasts.delete(entry);
    return;
  }
  if (!toast && !isActive(entry)) return;
  if (!toast) {
    toast = { added: entry.job.counts.succeeded, line: createToast(jobName(entry), details(entry)) };
    toasts.set(entry, toast);
  }
  const { job } = entry;
  // Only for the first file: later refreshes could move what the user reads.
  if (!toast.added && job.counts.succeeded && isActive(entry)) onAdded(entry.collection);
  toast.added = job.counts.succeeded;
  if (!isFinished(entry)) {
    toast.line.update(joinFacts(job.state, progressText(entry)), job.progress);
    return;
  }
  toasts.delete(entry);
  finish(entry, toast.line);
  onAdded(entry.collection);
}

async function finish(entry, toast) {
  const { job } = entry;
  const failed = job.counts.failed + job.counts.quarantined;
  if (job.error) return toast.fail(job.error);
  const outcome = outcomeText(job, ", ");
  if (!outcome && job.state === "succeeded") return toast.fail("no videos or pictures found");
  if (!failed) return toast.finish([job.state, outcome].filter(Boolean).join(": "));
  if (entry.failures.size < Math.min(failed, MAX_REASONS)) await loadFailures(entry).catch(() => {}); // the count is right without
  const reasons = [...entry.failures.values()].slice(0, MAX_REASONS).map((item) => item.reason);
  toast.fail([outcome, ...reasons].join("; "), details(entry));
}

export function prepareJobs(onAdded) {
  const states = new Map();
  const refresh = (collection) => onAdded(collection).catch(() => {}); // the next request reports the error
  onJobChange((entry) => {
    updateToast(entry, refresh);
    const state = isActive(entry) ? "running" : entry.job.state;
    if (states.has(entry) && states.get(entry) !== state && !isFinished(entry)) announce(`${jobName(entry)}: ${state}`);
    states.set(entry, state);
    showActiveCount();
  });
  $("open-jobs").onclick = () => openPanel("jobs");
}

function showActiveCount() {
  const active = currentName() ? jobsOf(currentName()).filter(isActive).length : 0;
  $("job-count").textContent = active || "";
  $("open-jobs").setAttribute("aria-label", active ? `Jobs, ${active} active` : "Jobs");
}

// Load the jobs of the current collection.
export function followJobs() {
  if (!currentName()) return;
  loadJobs(currentName()).then(showActiveCount, () => {}); // other requests report the error
}
