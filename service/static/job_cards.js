// All jobs of a collection, as the sheet shows them: each with its files, what failed and why, and what can be done about it.

import { chosenOnceLoaded } from "./collections.js";
import { became, nameOf, progress, sourceOf } from "./jobs.js";
import { announce } from "./notices.js";
import { el, of } from "./parts.js";
import { may } from "./rights.js";
import { chip, doing, empty, fill } from "./sheet.js";
import { change, isActive, isFinished, jobsOf, loadFailures, lookAtJobs, onJobs } from "./watching.js";
import { ago, count, facts, lasting } from "./words.js";

const AT_ONCE = 50; // failures that come into view by each "Show more"

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
  const reasons = el("ul", { className: "reasons", tabIndex: 0, "aria-label": "Why they failed" });
  const more = doing("Show more", "", async () => {
    limit += AT_ONCE;
    await look();
    if (more.hidden) reasons.focus();
    announce(`${reasons.children.length} of ${summary.textContent}`);
  });
  const failures = el("details", { open: true, hidden: true }, summary, reasons, el("div", { className: "actions" }, more));
  failures.ontoggle = () => failures.open && look().catch(() => {}); // also when it is shown first; "Show more" says why not
  const buttons = mayChange ? {
    pause: doing("Pause", "", () => change(entry, "pause")),
    resume: doing("Resume", "", () => change(entry, "resume")),
    retry: doing("Try failed again", "", () => change(entry, "retry")),
    cancel: doing("Cancel", "", () => change(entry, "cancel"), "quiet danger"),
  } : {};
  for (const button of [more, ...Object.values(buttons)]) of(nameOf(entry), button);
  const actions = el("div", { className: "actions" }, ...Object.values(buttons));
  const box = el("article", { className: "item job" }, el("div", { className: "row" }, title, state),
    el("p", { className: "facts", textContent: sourceOf(entry).join("") }), meter, text, error, failures, actions);

  let limit = AT_ONCE;
  let all = 0; // how many had failed when no more of them were to be had

  async function look() {
    const known = entry.failures.size;
    if (known < Math.min(limit, failedOf(entry))) {
      let isMore;
      do isMore = await loadFailures(entry); while (isMore && entry.failures.size === known);
      all = isMore ? 0 : failedOf(entry);
    }
    update();
  }

  function update() {
    const { job, lost } = entry;
    state.replaceChildren(chip(job.state, { failed: "bad", running: "live", succeeded: "good" }[job.state]));
    fillOf.style.setProperty("--share", isFinished(entry) && job.state === "succeeded" ? 1 : job.progress);
    meter.setAttribute("aria-valuenow", Math.round(100 * job.progress));
    meter.hidden = isFinished(entry);
    text.textContent = facts(progress(entry), became(job.counts, ", "), job.finished_at
      ? `${ago(job.finished_at)}, took ${lasting(job.finished_at - (job.started_at || job.created_at))}` : `begun ${ago(job.created_at)}`);
    text.classList.toggle("error", Boolean(lost));
    error.textContent = job.error || "";
    error.hidden = !job.error;
    const failed = failedOf(entry);
    failures.hidden = !failed;
    summary.textContent = count(failed, "file that failed", "files that failed");
    showReasons(reasons, entry, limit);
    const shown = reasons.children.length;
    more.hidden = shown === failed || (all === failed && shown === entry.failures.size);
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

const failedOf = ({ job: { counts } }) => counts.failed + counts.quarantined;

function showReasons(reasons, entry, limit) {
  let place = 0;
  for (const { reason, path } of entry.failures.values()) {
    if (place === limit) break;
    const text = reason || path;
    const old = reasons.children[place];
    place += 1;
    if (old?.textContent === text) continue;
    const made = el("li", { textContent: text, title: path });
    if (old) old.replaceWith(made);
    else reasons.append(made);
  }
  while (reasons.children.length > place) reasons.lastChild.remove();
}

// Whoever pressed a button that has no more use goes on at the next one.
function offer(buttons, wanted) {
  const left = Object.entries(buttons).find(([what, button]) => !wanted[what] && button === document.activeElement);
  for (const [what, button] of Object.entries(buttons)) button.hidden = !wanted[what];
  if (left) Object.values(buttons).find((button) => !button.hidden)?.focus();
}

export function showJobsPanel(panel) {
  const mine = { collection: null, list: el("div", { className: "items" }), cards: new Map(), mayChange: false };
  let isShown = true;
  fill(panel, async () => {
    const collection = mine.collection = await chosenOnceLoaded(); // whoever opens this may be quicker than the page
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
