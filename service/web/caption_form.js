// Captions side by side: how well each describes the clip, and what of it is shown where.

import { call } from "./api.js";
import { $, spokenNumbers, formatTime, formatCosine, el, scoreBars, describeScores } from "./dom.js";
import { busyForm } from "./busy_form.js";

const WORD_FRAMES = 8; // that words are looked for in
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const orderingScore = (score) => score.fused ?? score.similarity ?? score.match;

// ``subject()`` says which clip is meant, ``jump(seconds)`` leads to a frame. Returns what clears the answers.
export function prepareCaptionForm(getSpan, seek) {
  const form = busyForm($("score"), $("scores"));
  $("score").onsubmit = (event) => {
    event.preventDefault();
    const captions = lines($("captions").value);
    if (!captions.length) return $("captions").focus();
    const references = lines($("references").value);
    form.run(async (signal) => {
      const { scores } = await call("POST", "/v1/caption-scores", { ...getSpan(), captions, references, frames: WORD_FRAMES }, signal);
      const order = scores.slice().sort((a, b) => orderingScore(b) - orderingScore(a));
      const strongest = Math.max(...order.flatMap((score) => wordsOf(score).map((word) => word.similarity)), 0.01);
      const [best] = order;
      return {
        shown: order.map((score, place) => scoreCard(score, place === 0 && order.length > 1, strongest, seek)),
        told: `${order.length > 1 ? "Fits best: " : ""}${best.caption}. ${describeMatch(best)} ${describeScores(best)}`,
      };
    });
  };
  return () => {
    form.clear();
    const text = $("query").value.trim();
    if (!$("captions").value && text) $("captions").value = `${text}\n`;
  };
}

const wordsOf = (score) => (score.emscore ? score.emscore.words : []);

function scoreCard(score, isBest, strongest, seek) {
  return el("article", { className: isBest ? "verdict best" : "verdict" },
    el("h4", { textContent: score.caption }),
    el("p", { className: "saying" }, isBest ? el("b", { textContent: "Fits best. " }) : null, describeMatch(score)),
    scoreBars(score), wordScores(wordsOf(score), strongest, seek), otherScores(score));
}

function describeMatch({ match, similarity }) {
  if (match === null) return similarity === null ? "" : "This model compares, but does not judge single sentences.";
  const bounds = [[0.95, "It almost certainly describes the clip."], [0.7, "It probably describes the clip."],
    [0.3, "It may or may not describe the clip."], [0.05, "It probably does not describe the clip."]];
  return (bounds.find(([threshold]) => match >= threshold) || [0, "It almost certainly does not describe the clip."])[1];
}

// Each word as strongly tinted as its best frame shows it, the cosine in text, and the way to that frame.
function wordScores(words, strongest, seek) {
  if (!words.length) return null;
  return el("div", { className: "evidence", role: "group", "aria-label": "How well its words are shown" }, ...words.map((word) => {
    if (!word.weight) return el("span", { className: "word idle", textContent: word.word });
    const value = formatCosine(word.similarity);
    const button = el("button", {
      type: "button", className: "word", title: `shown best at ${formatTime(word.time)}`,
      "aria-label": `${word.word}: ${spokenNumbers(value)}, shown best at ${formatTime(word.time)}. Go there`, onclick: () => seek(word.time),
    }, word.word, el("small", { textContent: value }));
    button.style.setProperty("--share", Math.max(0, word.similarity / strongest));
    return button;
  }));
}

// All the other numbers, for those who compare captions by them.
function otherScores(score) {
  const em = score.emscore || {};
  const values = [
    ["CLIPScore", score.clipscore], ["RefCLIPScore", score.refclipscore], ["Similarity to the nearest reference", score.reference_similarity],
    ["EMScore", em.score], ["its precision: what is said is seen", em.precision], ["its recall: what is seen is said", em.recall],
  ].filter(([, value]) => typeof value === "number");
  if (!values.length) return null;
  return el("details", { className: "numbers-of" }, el("summary", { textContent: "Other scores" }),
    el("dl", {}, ...values.flatMap(([name, value]) => [el("dt", { textContent: name }), el("dd", { textContent: value.toFixed(3) })])));
}
