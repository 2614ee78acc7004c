// One clip, large: watched, found in its video, compared with captions, asked about.

import { noteClosed, noteOpened } from "./address.js";
import { prepareAnswers } from "./answers.js";
import { at, call } from "./api.js";
import { prepareCaptions } from "./captions.js";
import { chosenName } from "./collections.js";
import { announce } from "./notices.js";
import { $, el, span } from "./parts.js";
import { player } from "./player.js";
import { question } from "./question.js";
import { choose, clipPlayed, follow, hideTimeline, moveBy, prepareTimeline, showMoments, showTimeline } from "./timeline.js";
import { find, wanted } from "./wanted.js";

const SETTLED_AFTER = 300; // milliseconds; neither the address nor what is told should change with every repetition of a key

let shown = null; // {video, start, end, text, media_url, thumbnail_url, clip_id}
let screen = null;
let asked = null;
let settling = null;

// ``clip.video`` may have its ``spans`` already.
export function openClip(clip) {
  rest();
  asked = new AbortController();
  tell(clip);
  noteOpened(clip);
  if (!$("clip").open) $("clip").showModal();
  $("clip-title").focus(); // the arrow keys lead through the video from here
  screen = player($("clip-screen"), clip, follow);
  fillTimeline(clip, asked.signal);
}

// As if somebody had closed it.
export function closeClip() {
  noteClosed();
  $("clip").close();
}

// The id of the video that is open, else null.
export const openVideo = () => ($("clip").open ? shown.video.id : null);

function rest() {
  asked?.abort();
  screen?.stop();
  clearTimeout(settling);
  document.title = "Vitascope";
  hideTimeline();
  clearLooks();
}

function tell(clip) {
  shown = clip;
  const { video } = clip;
  document.title = `${video.title} · Vitascope`;
  $("clip-title").textContent = video.title;
  const facts = Object.entries(video.metadata).map(([key, value]) => `${key}: ${value}`);
  $("clip-facts").textContent = [span(clip.start, clip.end), `${video.width}×${video.height}`, ...facts].join(" · ");
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
    const { spans } = video.spans ? video : await call("GET", at(chosenName(), "videos", video.id), undefined, signal);
    showTimeline(spans, video.duration, (picked, told) => {
      clearLooks();
      tell({ ...picked, clip_id: picked.id, video });
      clearTimeout(settling);
      settling = setTimeout(() => {
        if (!$("clip").open) return;
        noteOpened(shown);
        if (told) announce(told);
      }, SETTLED_AFTER);
      screen.show(shown);
    });
    $("clip-like").hidden = !spans.length;
    if (shown.clip_id || shown.start) choose(start);
    const sought = wanted();
    if (spans.length < 2 || !sought.isAsked) return showMoments(null, "");
    showMoments(null, "Looking for moments that fit…");
    const here = { video_id: Number(video.id) };
    const filter = sought.filter ? { and: [here, sought.filter] } : here;
    const { results } = await find({ ...sought, group: "clip", filter }, { signal });
    showMoments(results, results.length ? "Moments that fit best" : "No other moment of this video fits.");
  } catch (error) {
    if (error.name !== "AbortError") showMoments(null, error.message);
  }
}

// Which part of which video is meant by what is asked about it.
function subject() {
  const asWhole = $("clip-part").querySelector("[value=video]").checked || !shown.end;
  return { collection: chosenName(), video_id: shown.video.id, ...(asWhole ? {} : { start: shown.start, end: shown.end }) };
}

// ``onDeleted`` is called once the video is gone, ``likeThis`` with the clip that others should look like.
export function prepareClip(onDeleted, likeThis) {
  prepareTimeline();
  $("clip-link").hidden = !navigator.clipboard; // browsers have it for https and this machine only
  $("clip-link").onclick = async () => {
    noteOpened(shown);
    const isCopied = await navigator.clipboard.writeText(location.href).then(() => true, () => false);
    $("clip-link").textContent = isCopied ? "Copied" : "The browser forbids it";
    announce($("clip-link").textContent);
  };
  $("clip-like").onclick = () => {
    const here = shown.clip_id ? shown : { ...clipPlayed(), video: shown.video };
    noteOpened(shown);
    $("clip").close();
    likeThis({ ...here, clip_id: here.clip_id || here.id }); // one can go back to the clip from there
    noteClosed(); // where that is the same search
  };
  $("clip-delete").onclick = async () => {
    const { video } = shown;
    const sure = await question({ title: `Delete ${video.title}?`, text: `It goes from ${chosenName()}, with its clips.`, action: "Delete", isDangerous: true });
    if (!sure) return;
    try {
      await call("DELETE", at(chosenName(), "videos", video.id));
      closeClip();
      await onDeleted();
    } catch (error) {
      $("scores").replaceChildren(el("p", { className: "error", role: "alert", textContent: error.message }));
    }
  };
}

const clearLooks = (() => {
  const clear = [prepareCaptions(subject, (seconds) => screen.jump(seconds)), prepareAnswers(subject)];
  return () => clear.forEach((each) => each());
})();

$("clip").addEventListener("close", () => {
  rest();
  const { activeElement } = document;
  if (activeElement === document.body || $("clip").contains(activeElement)) $("results").focus({ preventScroll: true }); // no card to go back to
});
$("clip").addEventListener("cancel", (event) => event.target === $("clip") && noteClosed()); // by Esc
$("clip").addEventListener("keydown", (event) => {
  const isElsewhere = event.target.matches("input, textarea, select, video, summary");
  if (isElsewhere || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (moveBy(event.key)) event.preventDefault();
});
$("clip-close").onclick = closeClip;
$("clip").addEventListener("click", (event) => event.target === $("clip") && closeClip()); // beside the panel
