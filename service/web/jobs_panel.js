// The Jobs panel: jobs with their files, failures and actions.

import { hasScope } from "./api.js";
import { currentNameOnceLoaded } from "./collections.js";
import { el, labelButton } from "./dom.js";
import { formatCount, formatAge, formatDuration, joinFacts } from "./format.js";
import { changeJob, isActive, isFinished, jobsOf, loadFailures, loadJobs, onJobChange } from "./job_store.js";
import { jobName, outcomeText, progressText, sourceName } from "./jobs.js";
import { actionButton, chip, emptyState, renderInto } from "./side_panel.js";
import { announce } from "./toasts.js";

const PAGE_SIZE = 50; // failures per "Show more"

let openPanelState = null; // state of the open panel

onJobChange((entry) => openPanelState?.collection === entry.collection && draw(openPanelState));

function jobCard(entry, mayChange) {
  const title = el("h3", { textContent: jobName(entry) });
  const state = el("span");
  const meterFill = el("i");
  const meter = el("div", { className: "meter", role: "progressbar", "aria-label": `Progress of ${jobName(entry)}`, "aria-valuemin": 0, "aria-valuemax": 100 }, meterFill);
  const statusText = el("p", { className: "facts" });
  const error = el("p", { className: "error", hidden: true });
  const summary = el("summary");
  const reasons = el("ul", { className: "reasons", tabIndex: 0, "aria-label": "Failure reasons" });
  const more = actionButton("Show more", "", async () => {
    limit += PAGE_SIZE;
    await loadMore();
    if (more.hidden) reasons.focus();
    announce(`${reasons.children.length} of ${summary.textContent}`);
  });
  const failures = el("details", { open: true, hidden: true }, summary, reasons, el("div", { className: "actions" }, more));
  failures.ontoggle = () => failures.open && loadMore().catch(() => {}); // also on the first render; "Show more" reports errors
  const buttons = mayChange ? {
    pause: actionButton("Pause", "", () => changeJob(entry, "pause")),
    resume: actionButton("Resume", "", () => changeJob(entry, "resume")),
    retry: actionButton("Retry failed", "", () => changeJob(entry, "retry")),
    cancel: actionButton("Cancel", "", () => changeJob(entry, "cancel"), "quiet danger"),
  } : {};
  for (const button of [more, ...Object.values(buttons)]) labelButton(jobName(entry), button);
  const actions = el("div", { className: "actions" }, ...Object.values(buttons));
  const box = el("article", { className: "item job" }, el("div", { className: "row" }, title, state),
    el("p", { className: "facts", textContent: sourceName(entry).join("") }), meter, statusText, error, failures, actions);

  let limit = PAGE_SIZE;
  let failedWhenExhausted = 0; // number of failures when no more could be loaded

  async function loadMore() {
    const loadedCount = entry.failures.size;
    if (loadedCount < Math.min(limit, failedCount(entry))) {
      let isMore;
      do isMore = await loadFailures(entry); while (isMore && entry.failures.size === loadedCount);
      failedWhenExhausted = isMore ? 0 : failedCount(entry);
    }
    update();
  }

  function update() {
    const { job, lost } = entry;
    state.replaceChildren(chip(job.state, { failed: "bad", running: "live", succeeded: "good" }[job.state]));
    meterFill.style.setProperty("--share", isFinished(entry) && job.state === "succeeded" ? 1 : job.progress);
    meter.setAttribute("aria-valuenow", Math.round(100 * job.progress));
    meter.hidden = isFinished(entry);
    statusText.textContent = joinFacts(progressText(entry), outcomeText(job, ", "), job.finished_at
      ? `${formatAge(job.finished_at)}, took ${formatDuration(job.finished_at - (job.started_at || job.created_at))}` : `started ${formatAge(job.created_at)}`);
    statusText.classList.toggle("error", Boolean(lost));
    error.textContent = job.error || "";
    error.hidden = !job.error;
    const failed = failedCount(entry);
    failures.hidden = !failed;
    summary.textContent = formatCount(failed, "failed file");
    showReasons(reasons, entry, limit);
    const shown = reasons.children.length;
    more.hidden = shown === failed || (failedWhenExhausted === failed && shown === entry.failures.size);
    showButtons(buttons, {
      pause: isActive(entry) && !job.requested,
      resume: job.state === "paused" || job.requested === "pause",
      retry: isFinished(entry) && failed + job.counts.cancelled > 0,
      cancel: !isFinished(entry) && job.requested !== "cancel",
    });
  }
  update();
  return { box, update };
}

const failedCount = ({ job: { counts } }) => counts.failed + counts.quarantined;

function showReasons(reasons, entry, limit) {
  let index = 0;
  for (const { reason, path } of entry.failures.values()) {
    if (index === limit) break;
    const statusText = reason || path;
    const existing = reasons.children[index];
    index += 1;
    if (existing?.textContent === statusText) continue;
    const item = el("li", { textContent: statusText, title: path });
    if (existing) existing.replaceWith(item);
    else reasons.append(item);
  }
  while (reasons.children.length > index) reasons.lastChild.remove();
}

// Move the focus from a button that is hidden to the next one.
function showButtons(buttons, visible) {
  const hiddenFocused = Object.entries(buttons).find(([action, button]) => !visible[action] && button === document.activeElement);
  for (const [action, button] of Object.entries(buttons)) button.hidden = !visible[action];
  if (hiddenFocused) Object.values(buttons).find((button) => !button.hidden)?.focus();
}

export function showPanel(panel) {
  const state = { collection: null, list: el("div", { className: "items" }), cards: new Map(), mayChange: false };
  let isShown = true;
  renderInto(panel, async () => {
    const collection = state.collection = await currentNameOnceLoaded(); // the panel may open before collections are loaded
    if (!collection) return [emptyState("No collections", "Jobs add videos from folders, lists and URLs to a collection.")];
    const [cursor, mayChange] = await Promise.all([loadJobs(collection), hasScope("write", collection)]);
    state.mayChange = mayChange;
    if (isShown) openPanelState = state;
    draw(state);
    const more = el("button", { type: "button", className: "quiet", textContent: "Show older jobs" });
    const noJobs = emptyState("No jobs yet", "Start one with “Add videos”.");
    noJobs.classList.add("if-empty");
    updateOlderButton(state, more, cursor);
    return [el("p", { className: "facts", textContent: `Jobs of ${collection}, newest first. They continue when this page is closed.` }), state.list, noJobs, more];
  });
  return () => {
    isShown = false;
    openPanelState = null;
  };
}

function updateOlderButton(state, more, cursor) {
  more.hidden = !cursor;
  more.onclick = async () => {
    more.disabled = true;
    updateOlderButton(state, more, await loadJobs(state.collection, cursor).catch(() => cursor));
    more.disabled = false;
    draw(state);
  };
}

function draw({ collection, list, cards, mayChange }) {
  for (const [entry, { box }] of cards) if (entry.isGone) box.remove();
  let previous = null;
  for (const entry of jobsOf(collection)) {
    if (cards.has(entry)) {
      cards.get(entry).update();
    } else {
      cards.set(entry, jobCard(entry, mayChange));
      if (previous) previous.after(cards.get(entry).box);
      else list.prepend(cards.get(entry).box);
    }
    previous = cards.get(entry).box;
  }
}
