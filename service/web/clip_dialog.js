// The clip dialog: player, timeline, captions and questions.

import { call, collectionPath } from "./api.js";
import { prepareCaptionForm } from "./caption_form.js";
import { createPlayer } from "./clip_player.js";
import { currentName } from "./collections.js";
import { confirmAction } from "./confirm.js";
import { $, el, formatSpan } from "./dom.js";
import { recordClosed, recordOpened } from "./history.js";
import { prepareQuestionForm } from "./question_form.js";
import { readSearch, runSearch } from "./search_state.js";
import { clipAtPlayhead, handleKey, hideTimeline, prepareTimeline, selectAt, setPlayhead, showMoments, showTimeline } from "./timeline.js";
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
  player = createPlayer($("clip-screen"), clip, setPlayhead);
  fillTimeline(clip, pending.signal);
}

// Close the dialog, as the close button does.
export function closeClip() {
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
  $("clip-like").hidden = !clip.clip_id;
  $("clip-link").textContent = "Copy link";
  $("clip-part").hidden = clip.end - clip.start >= video.duration - 0.01; // the clip is the whole video
  $("clip-part").querySelector("[value=clip]").checked = true;
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

// ``onDeleted()`` is called when the video was deleted, ``findSimilar(clip)`` by "Find similar".
export function prepareClipDialog(onDeleted, findSimilar) {
  prepareTimeline();
  $("clip-link").hidden = !navigator.clipboard; // browsers offer it for https and localhost only
  $("clip-link").onclick = async () => {
    recordOpened(current);
    const isCopied = await navigator.clipboard.writeText(location.href).then(() => true, () => false);
    $("clip-link").textContent = isCopied ? "Copied" : "Copying was blocked";
    announce($("clip-link").textContent);
  };
  $("clip-like").onclick = () => {
    const clip = current.clip_id ? current : { ...clipAtPlayhead(), video: current.video };
    recordOpened(current);
    $("clip").close();
    findSimilar({ ...clip, clip_id: clip.clip_id || clip.id }); // Back returns to this clip
    recordClosed(); // if the search is the same
  };
  $("clip-delete").onclick = async () => {
    const { video } = current;
    const confirmed = await confirmAction({ title: `Delete ${video.title}?`, text: `The video and its clips will be removed from ${currentName()}.`, action: "Delete", isDangerous: true });
    if (!confirmed) return;
    try {
      await call("DELETE", collectionPath(currentName(), "videos", video.id));
      closeClip();
      await onDeleted();
    } catch (error) {
      $("scores").replaceChildren(el("p", { className: "error", role: "alert", textContent: error.message }));
    }
  };
}

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
