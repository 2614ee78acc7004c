// All jobs of a collection, as the sheet shows them: each with its files, what failed and why, and what can be done about it.

import { chosenName } from "./collections.js";
import { became, nameOf, progress, share, sourceOf } from "./jobs.js";
import { el } from "./parts.js";
import { may } from "./rights.js";
import { chip, doing, empty, fill } from "./sheet.js";
import { change, isActive, isFinished, jobsOf, loadFailures, lookAtJobs, onJobs } from "./watching.js";
import { ago, count, facts, lasting } from "./words.js";

let open = null; // what the panel shows, as long as it is open

onJobs((entry) => open?.collection === entry.collection && draw(open));

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
