// Jobs as they are seen: a line in the corner for each that goes on, and all of a collection in the sheet.

import { chosenName } from "./collections.js";
import { announce, line, small } from "./notices.js";
import { $, el } from "./parts.js";
import { may } from "./rights.js";
import { chip, doing, empty, fill, openSheet } from "./sheet.js";
import { change, isActive, isFinished, jobsOf, loadFailures, lookAtJobs, onJobs } from "./watching.js";
import { ago, count, facts, lasting } from "./words.js";

const NAMED = 3; // failures in the corner
const notices = new Map(); // by entry
let open = null; // what the panel shows, as long as it is open

// Where a job's videos come from: all of it, and the last part, by which people know it.
function sourceOf({ job }) {
  const { folder, file, url, files, shards } = job.source;
  const several = files || shards || [];
  return [folder || file || url || several[0] || `job ${job.id}`, several.length > 1 ? ` and ${several.length - 1} more` : ""];
}

function nameOf(entry) {
  const [first, more] = sourceOf(entry);
  return (first.replace(/\/+$/, "").split("/").pop() || first) + more;
}

const share = (job) => (job.total ? job.done / job.total : 0);

function progress({ job, lost }) {
  if (lost) return `${lost.message} It is tried again.`;
  const { rate } = job;
  return facts(
    job.requested ? { pause: "pauses", cancel: "ends" }[job.requested] + " after the files at hand" : "",
    job.total ? `${job.done.toLocaleString("en")} of ${count(job.total, "file")}` : isActive({ job }) ? "looking what there is" : "",
    isActive({ job }) && rate ? `${rate.items.toFixed(1)} files/s` : "",
    isActive({ job }) && rate?.seconds_left ? `about ${lasting(rate.seconds_left)} left` : "",
  );
}

const became = ({ succeeded, skipped, failed, quarantined, cancelled }, separator) => [
  [succeeded, "added"], [skipped, "skipped"], [failed, "failed"], [quarantined, "put aside"], [cancelled, "not tried"],
].filter(([number]) => number).map(([number, what]) => `${number.toLocaleString("en")} ${what}`).join(separator);

// In the corner

function notice(entry, onAdded) {
  let mine = notices.get(entry);
  if (entry.isGone) {
    mine?.shown.remove();
    notices.delete(entry);
    return;
  }
  if (!mine && !isActive(entry)) return;
  if (!mine) {
    mine = { added: entry.job.counts.succeeded, shown: line(nameOf(entry), small("Details", () => openSheet("jobs"))) };
    notices.set(entry, mine);
  }
  const { job } = entry;
  // Not at every file: whoever looks at the page should not lose the place.
  if (!mine.added && job.counts.succeeded && isActive(entry)) onAdded(entry.collection);
  mine.added = job.counts.succeeded;
  if (!isFinished(entry)) {
    mine.shown.say(facts(job.state, progress(entry)), share(job));
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
  shown.fail([became(job.counts, ", "), ...reasons].join("; "), small("Details", () => openSheet("jobs")));
}

// In the sheet

function card(entry, mayChange) {
  const title = el("h3", { textContent: nameOf(entry) });
  const state = el("span");
  const fillOf = el("i");
  const meter = el("div", { className: "meter", role: "progressbar", "aria-label": `Progress of ${nameOf(entry)}`, "aria-valuemin": 0, "aria-valuemax": 100 }, fillOf);
  const text = el("p", { className: "facts" });
  const error = el("p", { className: "error", hidden: true });
  const summary = el("summary");
  const reasons = el("ul", { className: "reasons" });
  const failures = el("details", { open: true, hidden: true }, summary, reasons);
  failures.ontoggle = () => failures.open && loadFailures(entry).then(update, () => {}); // also when it is shown first
  const buttons = mayChange ? {
    pause: doing("Pause", "", () => change(entry, "pause")),
    resume: doing("Resume", "", () => change(entry, "resume")),
    retry: doing("Try failed again", "", () => change(entry, "retry")),
    cancel: doing("Cancel", "", () => change(entry, "cancel"), "quiet danger"),
  } : {};
  const actions = el("div", { className: "actions" }, ...Object.values(buttons));
  const box = el("article", { className: "item job" }, el("div", { className: "row" }, title, state),
    el("p", { className: "facts", textContent: sourceOf(entry).join("") }), meter, text, error, failures, actions);

  function update() {
    const { job, lost } = entry;
    state.replaceChildren(chip(job.state, { failed: "bad", running: "live", succeeded: "good" }[job.state]));
    fillOf.style.setProperty("--share", isFinished(entry) && job.state === "succeeded" ? 1 : share(job));
    meter.setAttribute("aria-valuenow", Math.round(100 * share(job)));
    meter.hidden = isFinished(entry);
    text.textContent = facts(progress(entry), became(job.counts, ", "), job.finished_at
      ? `${ago(job.finished_at)}, took ${lasting(job.finished_at - (job.started_at || job.created_at))}` : `begun ${ago(job.created_at)}`);
    text.classList.toggle("error", Boolean(lost));
    error.textContent = job.error || "";
    error.hidden = !job.error;
    const failed = job.counts.failed + job.counts.quarantined;
    failures.hidden = !failed;
    summary.textContent = count(failed, "file that failed", "files that failed");
    showReasons(reasons, entry, failed);
    offer(buttons, {
      pause: isActive(entry) && !job.requested,
      resume: job.state === "paused" || job.requested === "pause",
      retry: isFinished(entry) && failed + job.counts.cancelled > 0,
      cancel: !isFinished(entry) && job.requested !== "cancel",
    });
  }
  update();
  return { box, update };
}

function showReasons(reasons, entry, failed) {
  const items = [...entry.failures.values()];
  const texts = items.map((item) => item.reason || item.path);
  if (items.length < failed) texts.push(`and ${failed - items.length} more`);
  texts.forEach((text, place) => {
    if (reasons.children[place]?.textContent === text) return;
    const made = el("li", { textContent: text, title: items[place]?.path || "" });
    if (reasons.children[place]) reasons.children[place].replaceWith(made);
    else reasons.append(made);
  });
  while (reasons.children.length > texts.length) reasons.lastChild.remove();
}

// Whoever pressed a button that has no more use goes on at the next one.
function offer(buttons, wanted) {
  const left = Object.entries(buttons).find(([what, button]) => !wanted[what] && button === document.activeElement);
  for (const [what, button] of Object.entries(buttons)) button.hidden = !wanted[what];
  if (left) Object.values(buttons).find((button) => !button.hidden)?.focus();
}

export function showJobsPanel(panel) {
  const collection = chosenName();
  const mine = { collection, list: el("div", { className: "items" }), cards: new Map(), mayChange: false };
  let isShown = true;
  fill(panel, async () => {
    if (!collection) return [empty("No collection yet", "Jobs add the videos of folders, lists and URLs to a collection.")];
    const [cursor, mayChange] = await Promise.all([lookAtJobs(collection), may("write", collection)]);
    mine.mayChange = mayChange;
    if (isShown) open = mine;
    draw(mine);
    const more = el("button", { type: "button", className: "quiet", textContent: "Show older ones" });
    const none = empty("No jobs yet", "A job adds the videos of a folder, a list or a URL. “Add videos” begins one.");
    none.classList.add("if-none");
    offerOlder(mine, more, cursor);
    return [el("p", { className: "facts", textContent: `What is added to ${collection}, newest first. It goes on when this page is closed.` }), mine.list, none, more];
  });
  return () => {
    isShown = false;
    open = null;
  };
}

function offerOlder(mine, more, cursor) {
  more.hidden = !cursor;
  more.onclick = async () => {
    more.disabled = true;
    offerOlder(mine, more, await lookAtJobs(mine.collection, cursor).catch(() => cursor));
    more.disabled = false;
    draw(mine);
  };
}

function draw({ collection, list, cards, mayChange }) {
  for (const [entry, { box }] of cards) if (entry.isGone) box.remove();
  let before = null;
  for (const entry of jobsOf(collection)) {
    if (cards.has(entry)) {
      cards.get(entry).update();
    } else {
      cards.set(entry, card(entry, mayChange));
      if (before) before.after(cards.get(entry).box);
      else list.prepend(cards.get(entry).box);
    }
    before = cards.get(entry).box;
  }
}

export function prepareJobs(onAdded) {
  const states = new Map();
  const show = (collection) => onAdded(collection).catch(() => {}); // whoever looks next is told what is wrong
  onJobs((entry) => {
    notice(entry, show);
    if (open?.collection === entry.collection) draw(open);
    if (states.has(entry) && states.get(entry) !== entry.job.state && !isFinished(entry)) announce(`${nameOf(entry)}: ${entry.job.state}`);
    states.set(entry, entry.job.state);
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
