// The clip dialog: player, timeline, captions and questions.

import { call, collectionPath, request } from "./api.js";
import { prepareCaptionForm } from "./caption_form.js";
import { createPlayer } from "./clip_player.js";
import { currentName } from "./collections.js";
import { confirmAction } from "./confirm.js";
import { $, el, formatSpan, scoreParts } from "./dom.js";
import { recordClosed, recordOpened } from "./history.js";
import { prepareQuestionForm } from "./question_form.js";
import { findSimilar, refresh } from "./search.js";
import { readSearch, runSearch } from "./search_state.js";
import { clipAtPlayhead, handleKey, hideTimeline, prepareTimeline, scoresOf, selectAt, setPlayhead, showMoments, showTimeline } from "./timeline.js";
import { announce } from "./toasts.js";

const SETTLE_DELAY = 300; // milliseconds; key repeats update neither address nor announcement

let current = null; // {video, start, end, text, media_url, thumbnail_url, clip_id}
let player = null;
let pending = null;
let settleTimer = null;

// ``clip.video`` may already have its ``spans``.
export function openClip(clip) {
  reset();
  pending = new AbortController();
  showDetails(clip);
  recordOpened(clip);
  if (!$("clip").open) $("clip").showModal();
  $("clip-title").focus(); // arrow keys move through the video from here
  player = createPlayer($("clip-screen"), clip, setPlayhead, () => explainFailure(clip.video));
  fillTimeline(clip, pending.signal);
}

// Why a video cannot be played: the service's reason, or the format.
async function explainFailure({ media_url: url, missing }) {
  if (missing) return "The file is missing; this is a stored frame.";
  try {
    const response = await request("GET", url, { headers: { Range: "bytes=0-0" } });
    await response.body.cancel();
    return "Your browser cannot play this format; these are frames of the clip.";
  } catch (error) {
    return error.message;
  }
}

// Close the dialog, as the close button does.
function closeClip() {
  recordClosed();
  $("clip").close();
}

// The id of the open video; null if none is open.
export const openedVideoId = () => ($("clip").open ? current.video.id : null);

function reset() {
  pending?.abort();
  player?.stop();
  clearTimeout(settleTimer);
  document.title = "Vitascope";
  hideTimeline();
  clearForms();
}

function showDetails(clip) {
  current = clip;
  const { video } = clip;
  document.title = `${video.title} · Vitascope`;
  $("clip-title").textContent = video.title;
  const metadata = Object.entries(video.metadata).map(([key, value]) => `${key}: ${value}`);
  $("clip-facts").textContent = [formatSpan(clip.start, clip.end), `${video.width}×${video.height}`, ...metadata].join(" · ");
  $("clip-text").textContent = clip.text || "";
  $("clip-text").hidden = !clip.text;
  showPath(video);
  showScores(clip.ranks ? clip : scoresOf(clip.clip_id));
  $("clip-like").hidden = !clip.clip_id;
  $("clip-link").textContent = "Copy link";
  $("clip-part").hidden = clip.end - clip.start >= video.duration - 0.01; // the clip is the whole video
  $("clip-part").querySelector("[value=clip]").checked = true;
}

function showPath({ path, missing }) {
  $("clip-path").hidden = !path;
  $("clip-path-text").textContent = path || "";
  $("clip-path-copy").textContent = "Copy path";
  $("clip-missing").hidden = !missing;
}

function showScores(scores) {
  const parts = scores ? scoreParts(scores) : [];
  $("clip-scores").hidden = !parts.length;
  $("clip-scores-list").replaceChildren(...parts.flatMap(([name, value, explanation]) =>
    [el("dt", { textContent: name }), el("dd", { textContent: value }), el("dd", { className: "facts", textContent: explanation })]));
}

// Copy text, and say so on the button.
async function copyFrom(button, text) {
  const isCopied = await navigator.clipboard.writeText(text).then(() => true, () => false);
  button.textContent = isCopied ? "Copied" : "Copying was blocked";
  announce(button.textContent);
}

// Timeline

async function fillTimeline({ video, start }, signal) {
  try {
    const { spans } = video.spans ? video : await call("GET", collectionPath(currentName(), "videos", video.id), undefined, signal);
    showTimeline(spans, video.duration, (selected, announcement) => {
      clearForms();
      showDetails({ ...selected, clip_id: selected.id, video });
      clearTimeout(settleTimer);
      settleTimer = setTimeout(() => {
        if (!$("clip").open) return;
        recordOpened(current);
        if (announcement) announce(announcement);
      }, SETTLE_DELAY);
      player.show(current);
    });
    $("clip-like").hidden = !spans.length;
    if (current.clip_id || current.start) selectAt(start);
    const search = readSearch();
    if (spans.length < 2 || !search.hasQuery) return showMoments(null, "");
    showMoments(null, "Searching for matching moments…");
    const clip = { video_id: Number(video.id) };
    const filter = search.filter ? { and: [clip, search.filter] } : clip;
    const { results } = await runSearch({ ...search, group: "clip", filter }, { signal });
    showMoments(results, results.length ? "Best matching moments" : "No other matching moments in this video.");
  } catch (error) {
    if (error.name !== "AbortError") showMoments(null, error.message);
  }
}

// The span that captions and questions refer to.
function selectedSpan() {
  const asWhole = $("clip-part").querySelector("[value=video]").checked || !current.end;
  return { collection: currentName(), video_id: current.video.id, ...(asWhole ? {} : { start: current.start, end: current.end }) };
}

prepareTimeline();
$("clip-link").hidden = $("clip-path-copy").hidden = !navigator.clipboard; // browsers offer it for https and localhost only
$("clip-link").onclick = () => {
  recordOpened(current);
  copyFrom($("clip-link"), location.href);
};
$("clip-path-copy").onclick = () => copyFrom($("clip-path-copy"), current.video.path);
$("clip-like").onclick = () => {
  const clip = current.clip_id ? current : { ...clipAtPlayhead(), video: current.video };
  recordOpened(current);
  $("clip").close();
  findSimilar({ ...clip, clip_id: clip.clip_id || clip.id }); // Back returns to this clip
  recordClosed(); // if the search is the same
};
$("clip-edit").onclick = async () => {
  const { video } = current;
  try {
    const { editVideo } = await import("./edit_video.js");
    const changed = await editVideo(currentName(), video);
    if (!changed) return;
    if (openedVideoId() === video.id) showDetails({ ...current, video: { ...video, ...changed } });
    announce([`${changed.title}: saved`, ...changed.notes].join("; "));
    await refresh();
  } catch (error) {
    showFailure(error);
  }
};
$("clip-delete").onclick = async () => {
  const { video } = current;
  const confirmed = await confirmAction({ title: `Delete ${video.title}?`, text: `The video and its clips will be removed from ${currentName()}.`, action: "Delete", isDangerous: true });
  if (!confirmed) return;
  try {
    await call("DELETE", collectionPath(currentName(), "videos", video.id));
    closeClip();
    await refresh();
  } catch (error) {
    showFailure(error);
  }
};

const showFailure = (error) => $("scores").replaceChildren(el("p", { className: "error", role: "alert", textContent: error.message }));

const clearForms = (() => {
  const clear = [prepareCaptionForm(selectedSpan, (seconds) => player.seek(seconds)), prepareQuestionForm(selectedSpan)];
  return () => clear.forEach((clearForm) => clearForm());
})();

$("clip").addEventListener("close", () => {
  reset();
  const { activeElement } = document;
  if (activeElement === document.body || $("clip").contains(activeElement)) $("results").focus({ preventScroll: true }); // its card is gone
});
$("clip").addEventListener("cancel", (event) => event.target === $("clip") && recordClosed()); // Escape
$("clip").addEventListener("keydown", (event) => {
  const isInput = event.target.matches("input, textarea, select, video, summary");
  if (isInput || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (handleKey(event.key)) event.preventDefault();
});
$("clip-close").onclick = closeClip;
$("clip").addEventListener("click", (event) => event.target === $("clip") && closeClip()); // a click outside the content
