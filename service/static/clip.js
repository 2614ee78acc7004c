// One clip, large: watched, compared with captions, asked about.

import { at, call } from "./api.js";
import { chosenName } from "./collections.js";
import { $, answerBar, el, scoreBars, showLarge, span } from "./parts.js";

let shown = null;
let stopScreen = () => {};

export function openClip(clip) {
  shown = clip;
  $("clip-title").textContent = clip.video.title;
  const facts = Object.entries(clip.video.metadata).map(([key, value]) => `${key}: ${value}`);
  $("clip-facts").textContent = [span(clip.start, clip.end), `${clip.video.width}×${clip.video.height}`, ...facts].join(" · ");
  $("clip-text").textContent = clip.text || "";
  $("clip-text").hidden = !clip.text;
  $("scores").replaceChildren();
  $("answers").replaceChildren();
  const isPart = clip.end - clip.start < clip.video.duration - 0.01;
  $("clip-part").querySelectorAll("label").forEach((label) => (label.hidden = !isPart));
  $("clip-part").querySelector("[value=clip]").checked = true;
  if (!$("captions").value && $("query").value.trim()) $("captions").value = `${$("query").value.trim()}\n`;
  $("clip").showModal();
  if (matchMedia("(pointer: fine)").matches) $("captions").focus(); // on a phone it would raise the keyboard
  stopScreen = showLarge($("clip-screen"), clip);
}

function subject() {
  const asWhole = $("clip-part").querySelector("[value=video]").checked || !shown.end;
  return { collection: chosenName(), video_id: shown.video.id, ...(asWhole ? {} : { start: shown.start, end: shown.end }) };
}

async function working(form, out, work) {
  const button = form.querySelector("button.strong");
  button.disabled = true;
  out.replaceChildren(el("p", { className: "facts", textContent: "Looking…" }));
  try {
    out.replaceChildren(...(await work()));
  } catch (error) {
    out.replaceChildren(el("p", { className: "error", textContent: error.message }));
  } finally {
    button.disabled = false;
  }
}

function verdict(score, isBest) {
  return el("div", { className: isBest ? "verdict best" : "verdict" },
    el("p", { textContent: score.caption }), isBest ? el("small", { textContent: "fits best" }) : null, scoreBars(score));
}

$("score").onsubmit = (event) => {
  event.preventDefault();
  const captions = $("captions").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!captions.length) return $("captions").focus();
  working($("score"), $("scores"), async () => {
    const { scores } = await call("POST", "/v1/caption-scores", { ...subject(), captions });
    const order = scores.slice().sort((a, b) => (b.fused ?? b.similarity) - (a.fused ?? a.similarity));
    return order.map((score, place) => verdict(score, place === 0 && order.length > 1));
  });
};

$("question-form").onsubmit = (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return $("question").focus();
  working($("question-form"), $("answers"), async () => {
    const { answers } = await call("POST", "/v1/answers", { ...subject(), question, top: 5 });
    return answers.map(answerBar);
  });
};

$("clip").addEventListener("close", () => stopScreen());
$("clip-close").onclick = () => $("clip").close();
$("clip").addEventListener("click", (event) => {
  if (event.target === $("clip")) $("clip").close(); // beside the panel
});

// ``onDeleted`` is called once the video is gone.
export function prepareClip(onDeleted) {
  $("clip-delete").onclick = async () => {
    const { video } = shown;
    if (!confirm(`Delete “${video.title}” from ${chosenName()}?`)) return;
    try {
      await call("DELETE", at(chosenName(), "videos", video.id));
      $("clip").close();
      await onDeleted();
    } catch (error) {
      $("scores").replaceChildren(el("p", { className: "error", textContent: error.message }));
    }
  };
}
