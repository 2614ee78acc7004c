// One clip, large: watched, found in its video, compared with captions, asked about.

import { recordClosed, recordOpened } from "./history.js";
import { prepareQuestionForm } from "./question_form.js";
import { collectionPath, call } from "./api.js";
import { prepareCaptionForm } from "./caption_form.js";
import { currentName } from "./collections.js";
import { announce } from "./toasts.js";
import { $, el, formatSpan } from "./dom.js";
import { createPlayer } from "./clip_player.js";
import { confirmAction } from "./confirm.js";
import { selectAt, clipAtPlayhead, setPlayhead, hideTimeline, handleKey, prepareTimeline, showMoments, showTimeline } from "./timeline.js";
import { runSearch, readSearch } from "./search_state.js";

const SETTLE_DELAY = 300; // milliseconds; neither the address nor what is told should change with every repetition of a key

let current = null; // {video, start, end, text, media_url, thumbnail_url, clip_id}
let player = null;
let pending = null;
let settleTimer = null;

// ``clip.video`` may have its ``spans`` already.
export function openClip(clip) {
  reset();
  pending = new AbortController();
  showDetails(clip);
  recordOpened(clip);
  if (!$("clip").open) $("clip").showModal();
  $("clip-title").focus(); // the arrow keys lead through the video from here
  player = createPlayer($("clip-screen"), clip, setPlayhead);
  fillTimeline(clip, pending.signal);
}

// As if somebody had closed it.
export function closeClip() {
  recordClosed();
  $("clip").close();
}

// The id of the video that is open, else null.
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
  $("clip-part").hidden = clip.end - clip.start >= video.duration - 0.01; // it is the whole
  $("clip-part").querySelector("[value=clip]").checked = true;
}

// Its video's clips, and those of them that fit what is looked for

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
    if (spans.length < 2 || !search.isAsked) return showMoments(null, "");
    showMoments(null, "Looking for moments that fit…");
    const clip = { video_id: Number(video.id) };
    const filter = search.filter ? { and: [clip, search.filter] } : clip;
    const { results } = await runSearch({ ...search, group: "clip", filter }, { signal });
    showMoments(results, results.length ? "Moments that fit best" : "No other moment of this video fits.");
  } catch (error) {
    if (error.name !== "AbortError") showMoments(null, error.message);
  }
}

// Which part of which video is meant by what is asked about it.
function selectedSpan() {
  const asWhole = $("clip-part").querySelector("[value=video]").checked || !current.end;
  return { collection: currentName(), video_id: current.video.id, ...(asWhole ? {} : { start: current.start, end: current.end }) };
}

// ``onDeleted`` is called once the video is gone, ``likeThis`` with the clip that others should look like.
export function prepareClipDialog(onDeleted, findSimilar) {
  prepareTimeline();
  $("clip-link").hidden = !navigator.clipboard; // browsers have it for https and this machine only
  $("clip-link").onclick = async () => {
    recordOpened(current);
    const isCopied = await navigator.clipboard.writeText(location.href).then(() => true, () => false);
    $("clip-link").textContent = isCopied ? "Copied" : "The browser forbids it";
    announce($("clip-link").textContent);
  };
  $("clip-like").onclick = () => {
    const clip = current.clip_id ? current : { ...clipAtPlayhead(), video: current.video };
    recordOpened(current);
    $("clip").close();
    findSimilar({ ...clip, clip_id: clip.clip_id || clip.id }); // one can go back to the clip from there
    recordClosed(); // where that is the same search
  };
  $("clip-delete").onclick = async () => {
    const { video } = current;
    const confirmed = await confirmAction({ title: `Delete ${video.title}?`, text: `It goes from ${currentName()}, with its clips.`, action: "Delete", isDangerous: true });
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
  const clear = [prepareCaptionForm(selectedSpan, (seconds) => player.jump(seconds)), prepareQuestionForm(selectedSpan)];
  return () => clear.forEach((clearForm) => clearForm());
})();

$("clip").addEventListener("close", () => {
  reset();
  const { activeElement } = document;
  if (activeElement === document.body || $("clip").contains(activeElement)) $("results").focus({ preventScroll: true }); // no card to go back to
});
$("clip").addEventListener("cancel", (event) => event.target === $("clip") && recordClosed()); // by Esc
$("clip").addEventListener("keydown", (event) => {
  const isInput = event.target.matches("input, textarea, select, video, summary");
  if (isInput || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (handleKey(event.key)) event.preventDefault();
});
$("clip-close").onclick = closeClip;
$("clip").addEventListener("click", (event) => event.target === $("clip") && closeClip()); // beside the panel
