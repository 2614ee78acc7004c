// One clip, large: watched, found in its video, compared with captions, asked about.

import { prepareAnswers } from "./answers.js";
import { at, call } from "./api.js";
import { prepareCaptions } from "./captions.js";
import { chosenName } from "./collections.js";
import { $, el, span } from "./parts.js";
import { player } from "./player.js";
import { question } from "./question.js";
import { choose, clipPlayed, follow, hideTimeline, moveBy, prepareTimeline, showMoments, showTimeline } from "./timeline.js";
import { find, wanted } from "./wanted.js";

let shown = null; // {video, start, end, text, media_url, thumbnail_url, clip_id}
let screen = null;
let asked = null;

export function openClip(clip) {
  asked = new AbortController();
  hideTimeline();
  clearLooks();
  $("clip").showModal();
  $("clip-title").focus(); // the arrow keys lead through the video from here
  screen = player($("clip-screen"), clip, follow);
  tell(clip);
  fillTimeline(clip, asked.signal);
}

function tell(clip) {
  shown = clip;
  const { video } = clip;
  $("clip-title").textContent = video.title;
  const facts = Object.entries(video.metadata).map(([key, value]) => `${key}: ${value}`);
  $("clip-facts").textContent = [span(clip.start, clip.end), `${video.width}×${video.height}`, ...facts].join(" · ");
  $("clip-text").textContent = clip.text || "";
  $("clip-text").hidden = !clip.text;
  $("clip-like").hidden = !clip.clip_id;
  const isPart = clip.end - clip.start < video.duration - 0.01;
  $("clip-part").querySelectorAll("label").forEach((label) => (label.hidden = !isPart));
  $("clip-part").querySelector("[value=clip]").checked = true;
}

// Its video's clips, and those of them that fit what is looked for

async function fillTimeline({ video, start }, signal) {
  try {
    const { spans } = await call("GET", at(chosenName(), "videos", video.id), undefined, signal);
    showTimeline(spans, video.duration, (picked) => {
      clearLooks();
      tell({ ...picked, clip_id: picked.id, video });
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
  $("clip-like").onclick = () => {
    const here = shown.clip_id ? shown : { ...clipPlayed(), video: shown.video };
    $("clip").close();
    likeThis({ ...here, clip_id: here.clip_id || here.id });
  };
  $("clip-delete").onclick = async () => {
    const { video } = shown;
    const sure = await question({ title: `Delete ${video.title}?`, text: `It goes from ${chosenName()}, with its clips.`, action: "Delete", isDangerous: true });
    if (!sure) return;
    try {
      await call("DELETE", at(chosenName(), "videos", video.id));
      $("clip").close();
      await onDeleted();
    } catch (error) {
      $("scores").replaceChildren(el("p", { className: "error", textContent: error.message }));
    }
  };
}

const clearLooks = (() => {
  const clear = [prepareCaptions(subject, (seconds) => screen.jump(seconds)), prepareAnswers(subject)];
  return () => clear.forEach((each) => each());
})();

$("clip").addEventListener("close", () => {
  asked.abort();
  screen.stop();
  hideTimeline();
  clearLooks();
});
$("clip").addEventListener("keydown", (event) => {
  const isElsewhere = event.target.matches("input, textarea, select, video, summary");
  if (isElsewhere || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (moveBy(event.key)) event.preventDefault();
});
$("clip-close").onclick = () => $("clip").close();
$("clip").addEventListener("click", (event) => {
  if (event.target === $("clip")) $("clip").close(); // beside the panel
});
