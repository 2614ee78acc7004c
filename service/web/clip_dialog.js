// The clip dialog: player, timeline, captions and questions.

import { call, collectionPath, hasScope, request } from "./api.js";
import { prepareCaptionForm } from "./caption_form.js";
import { captionModel, prepareCaptioningForm } from "./captioning_form.js";
import { createPlayer } from "./clip_player.js";
import { currentName } from "./collections.js";
import { confirmAction } from "./confirm.js";
import { $, describeSize, el, formatSpan, isSound, scoreParts } from "./dom.js";
import { prepareGroundingForm } from "./grounding_form.js";
import { recordClosed, recordOpened } from "./history.js";
import { highlight, matchedTexts, matchedWords, signalParts, textsOf } from "./matches.js";
import { prepareMomentsForm } from "./moments_form.js";
import { prepareQuestionForm } from "./question_form.js";
import { findSimilar, refresh } from "./search.js";
import { readSearch, runSearch } from "./search_state.js";
import { maxCaptionClips } from "./side_panel.js";
import { signalName } from "./signals.js";
import { clipAtPlayhead, clipsOfVideo, handleKey, hideTimeline, prepareTimeline, scoresOf, selectAt, setPlayhead, showMatchingClips, showTimeline } from "./timeline.js";
import { announce } from "./toasts.js";

const SETTLE_DELAY = 300; // milliseconds; key repeats update neither address nor announcement

let current = null; // {video, start, end, text, media_url, thumbnail_url, clip_id}
let collection = null; // of the open video
let player = null;
let pending = null;
let settleTimer = null;

// ``clip.video`` may have its ``spans``. ``seconds``: where it plays from, by default its start; with sound from matching words.
export function openClip(clip, seconds) {
  reset();
  pending = new AbortController();
  collection = decodeURIComponent(clip.video.media_url.split("/")[3]);
  showDetails(clip);
  hasScope("write", collection).then((mayWrite) => ($("clip-edit").hidden = $("clip-delete").hidden = !mayWrite), () => {});
  recordOpened(clip);
  if (!$("clip").open) $("clip").showModal();
  $("clip-title").focus(); // arrow keys move through the video from here
  player = createPlayer($("clip-screen"), clip, seconds ?? clip.start, setPlayhead, () => explainFailure(clip.video));
  if (matchedTexts(clip).some(({ start }) => start === seconds)) player.unmute();
  fillTimeline(clip, pending.signal);
}

// Why a video cannot be played: the service's reason, or the format.
async function explainFailure(video) {
  const { media_url: url, missing } = video;
  const frames = (text) => (isSound({ video }) ? "" : text);
  if (missing) return `The file is missing${frames("; this is a stored frame")}.`;
  try {
    const response = await request("GET", url, { headers: { Range: "bytes=0-0" } });
    await response.body.cancel();
    return `Your browser cannot play this format${frames("; these are frames of the clip")}.`;
  } catch (error) {
    return error.message;
  }
}

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
  $("clip-facts").textContent = [formatSpan(clip.start, clip.end), describeSize(video), ...metadata].join(" · ");
  showPath(video);
  $("clip-like").hidden = !clip.clip_id;
  showScores();
  $("clip-link").textContent = "Copy link";
  $("clip-error").textContent = "";
  $("clip-part").hidden = isSound(clip) || clip.end - clip.start >= video.duration - 0.01; // the clip is the whole video
  $("clip").querySelector(".ask").hidden = isSound(clip); // captions and questions are about pictures
  $("clip-part").querySelector("[value=clip]").checked = true;
}

function showPath({ path, missing }) {
  $("clip-path").hidden = !path;
  $("clip-path-text").textContent = path || "";
  $("clip-path-copy").textContent = "Copy path";
  $("clip-missing").hidden = !missing;
}

// The clip's scores, and what is said and shown and its caption, with the words that match.
function showScores() {
  const scores = current.signals ? current : scoresOf(current.clip_id);
  const parts = scores ? [...scoreParts(scores), ...signalParts(scores)] : [];
  $("clip-scores").hidden = !parts.length;
  $("clip-scores-list").replaceChildren(...parts.flatMap(([name, value, explanation]) =>
    [el("dt", { textContent: name }), el("dd", { textContent: value }), el("dd", { className: "facts", textContent: explanation })]));
  const { modalities } = current.clip_id ? current : clipAtPlayhead() || {};
  $("clip-like-sound").hidden = $("clip-like").hidden || isSound(current) || !modalities?.includes("audio");
  $("clip-texts").replaceChildren(...textsOf(current).map(([signal, text]) => el("blockquote", {},
    el("small", { className: "facts", textContent: signalName(signal) }), el("p", { dir: "auto" }, ...highlight(text, matchedWords(scores || {}, signal))))));
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
    const { spans } = video.spans ? video : await call("GET", collectionPath(collection, "videos", video.id), undefined, signal);
    showTimeline(spans, video, (selected, announcement, match) => {
      clearForms();
      showDetails({ ...selected, clip_id: selected.id, video });
      clearTimeout(settleTimer);
      settleTimer = setTimeout(() => {
        if (!$("clip").open) return;
        recordOpened(current);
        if (announcement) announce(announcement);
      }, SETTLE_DELAY);
      player.show(current);
      if (!match) return;
      player.seek(match.start);
      if (match.signal === "speech") player.unmute();
    });
    $("clip-like").hidden = !spans.length;
    showScores();
    if (current.clip_id || current.start) selectAt(start);
    const search = readSearch();
    if (!search.hasQuery || !video.duration || collection !== currentName()) return showMatchingClips([], "");
    if (spans.length < 2 && current.signals) return showMatchingClips([current], "");
    showMatchingClips([], "Searching for matching clips…");
    const clip = { video_id: Number(video.id) };
    const filter = search.filter ? { and: [clip, search.filter] } : clip;
    const { results } = await runSearch({ ...search, refine: false, group: "clip", filter }, { signal });
    showMatchingClips(results, spans.length < 2 ? "" : results.length ? "Best matching clips" : "No other matching clips in this video.");
    showScores();
  } catch (error) {
    if (error.name !== "AbortError") showMatchingClips([], error.message);
  }
}

// The span that captions and questions refer to.
function selectedSpan() {
  const asWhole = $("clip-part").querySelector("[value=video]").checked || !current.end;
  return { collection, video_id: current.video.id, ...(asWhole ? {} : { start: current.start, end: current.end }) };
}

prepareTimeline();
$("clip-link").hidden = $("clip-path-copy").hidden = !navigator.clipboard; // browsers offer it for https and localhost only
$("clip-link").onclick = () => {
  recordOpened(current);
  copyFrom($("clip-link"), location.href);
};
$("clip-path-copy").onclick = () => copyFrom($("clip-path-copy"), current.video.path);
function searchSimilar(signal) {
  const clip = current.clip_id ? current : { ...clipAtPlayhead(), video: current.video };
  recordOpened(current);
  $("clip").close();
  findSimilar({ ...clip, clip_id: clip.clip_id || clip.id }, signal); // Back returns to this clip
  recordClosed(); // if the search is the same
}
$("clip-like").onclick = () => searchSimilar();
$("clip-like-sound").onclick = () => searchSimilar("audio");
$("clip-edit").onclick = async () => {
  const { video } = current;
  try {
    const { editVideo } = await import("./edit_video.js");
    const changed = await editVideo(collection, video);
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
  const url = collectionPath(collection, "videos", video.id);
  const confirmed = await confirmAction({ title: `Delete ${video.title}?`, text: `The video and its clips will be removed from ${collection}. ${video.path ? "Its file is kept." : "The uploaded file is deleted."}`, action: "Delete", isDangerous: true });
  if (!confirmed) return;
  try {
    await call("DELETE", url);
    if (openedVideoId() === video.id) closeClip();
    await refresh();
  } catch (error) {
    showFailure(error);
  }
};

// A video is captioned clip by clip, up to the limit.
const captionBody = () => {
  const span = selectedSpan();
  const tooMany = clipsOfVideo()[maxCaptionClips];
  const clips = { segmentation: "stored", ...(tooMany && { end: tooMany.start }) };
  return { ...span, ...("end" in span ? {} : clips), model: captionModel() };
};

const showFailure = (error) => ($("clip-error").textContent = error.message);

const clearForms = (() => {
  const seek = (seconds) => player.seek(seconds);
  const clear = [prepareCaptionForm(selectedSpan, seek), prepareQuestionForm(selectedSpan), prepareMomentsForm(selectedSpan, seek),
    prepareGroundingForm(selectedSpan, () => current),
    prepareCaptioningForm($("captioning-form"), $("generated-captions"), captionBody, seek, () => clipsOfVideo().length)];
  return () => clear.forEach((clearForm) => clearForm());
})();

$("clip").addEventListener("close", () => {
  reset();
  const { activeElement } = document;
  if (activeElement === document.body || $("clip").contains(activeElement)) $("results").focus({ preventScroll: true }); // its card is gone
});
$("clip").addEventListener("cancel", (event) => event.target === $("clip") && recordClosed()); // Escape
$("clip").addEventListener("keydown", (event) => {
  const isInput = event.target.matches("input, textarea, select, video, audio, summary");
  if (isInput || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (handleKey(event.key)) event.preventDefault();
});
$("clip-close").onclick = closeClip;
$("clip").addEventListener("click", (event) => event.target === $("clip") && closeClip());
