// The form that scores captions against a clip.

import { call } from "./api.js";
import { busyForm } from "./busy_form.js";
import { $, describeFit, el, fitBar, formatCosine, formatPercent, formatTime, scoreParts, spokenNumbers } from "./dom.js";
import { modalitiesNote } from "./matches.js";
import { modelFor } from "./side_panel.js";

const WORD_FRAMES = 8; // frames per word score
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const orderingScore = (score) => score.fused ?? score.similarity ?? score.match;

// ``seek(seconds)`` moves the player. Returns a function that clears the results.
export function prepareCaptionForm(getSpan, seek) {
  const form = busyForm($("score"), $("scores"));
  $("score").onsubmit = (event) => {
    event.preventDefault();
    const captions = lines($("captions").value);
    if (!captions.length) return $("captions").focus();
    const references = lines($("references").value);
    form.run(async (signal) => {
      const [{ scores, modalities }, classes] = await Promise.all([
        call("POST", "/v1/caption-scores", { ...getSpan(), captions, references, frames: WORD_FRAMES }, signal),
        classify(getSpan(), captions, signal),
      ]);
      const order = scores.slice().sort((a, b) => orderingScore(b) - orderingScore(a));
      const strongest = Math.max(...order.flatMap((score) => wordsOf(score).map((word) => word.similarity)), 0.01);
      const [best] = order;
      return {
        shown: order.map((score, rank) => scoreCard(score, rank === 0 && order.length > 1, strongest, seek, classes[scores.indexOf(score)])).concat(modalitiesNote(modalities)),
        message: `${order.length > 1 ? "Best match: " : ""}${best.caption}. ${describeMatch(best)} ${describeFit(best)}`,
      };
    });
  };
  return () => {
    form.clear();
    const text = $("query").value.trim();
    if (!$("captions").value && text) $("captions").value = `${text}\n`;
  };
}

// The class of each caption, in their order; none without a model that tells them.
async function classify(span, hypotheses, signal) {
  const model = modelFor("entailment");
  return model ? (await call("POST", "/v1/entailment", { ...span, hypotheses, model }, signal)).results : [];
}

const wordsOf = (score) => (score.emscore ? score.emscore.words : []);

function scoreCard(score, isBest, strongest, seek, classified) {
  return el("article", { className: isBest ? "score-card best" : "score-card" },
    el("h4", { textContent: score.caption }),
    el("p", { className: "match-text" }, isBest ? el("b", { textContent: "Best match. " }) : null, describeMatch(score)),
    classified ? el("p", { className: "match-text entailment", textContent: describeClass(classified) }) : null,
    fitBar(score), wordScores(wordsOf(score), strongest, seek), otherScores(score));
}

function describeMatch({ match, similarity }) {
  if (match === null) return similarity === null ? "" : "This model ranks captions, but gives no match probability.";
  const bounds = [[0.95, "Very likely describes the clip."], [0.7, "Probably describes the clip."],
    [0.3, "May describe the clip."], [0.05, "Probably does not describe the clip."]];
  return (bounds.find(([threshold]) => match >= threshold) || [0, "Very unlikely to describe the clip."])[1];
}

const CLASSES = { entailed: "Entailed (true of the clip)", neutral: "Neutral (may be true)", contradicted: "Contradicted (false of the clip)" };
const describeClass = ({ label, probabilities }) => `${CLASSES[label]}, ${formatPercent(probabilities[label])}`;

// Words tinted by the similarity of their best frame; a click seeks to that frame.
function wordScores(words, strongest, seek) {
  if (!words.length) return null;
  return el("div", { className: "word-scores", role: "group", "aria-label": "Scores by word" }, ...words.map((word) => {
    if (!word.weight) return el("span", { className: "word unscored", textContent: word.word });
    const value = formatCosine(word.similarity);
    const button = el("button", {
      type: "button", className: "word", title: `best match at ${formatTime(word.time)}`,
      "aria-label": `${word.word}: ${spokenNumbers(value)}, best match at ${formatTime(word.time)}. Jump to it`, onclick: () => seek(word.time),
    }, word.word, el("small", { textContent: value }));
    button.style.setProperty("--share", Math.max(0, word.similarity / strongest));
    return button;
  }));
}

// Further scores, folded.
function otherScores(score) {
  const em = score.emscore || {};
  const values = [
    ["CLIPScore", score.clipscore], ["RefCLIPScore", score.refclipscore], ["Similarity to nearest reference", score.reference_similarity],
    ["EMScore", em.score], ["EMScore precision", em.precision], ["EMScore recall", em.recall],
  ].filter(([, value]) => typeof value === "number").map(([name, value]) => [name, value.toFixed(3)]);
  values.unshift(...scoreParts(score).filter(([name]) => name !== "Fit"));
  if (!values.length) return null;
  return el("details", { className: "other-scores" }, el("summary", { textContent: "Other scores" }),
    el("dl", {}, ...values.flatMap(([name, value]) => [el("dt", { textContent: name }), el("dd", { textContent: value })])));
}
