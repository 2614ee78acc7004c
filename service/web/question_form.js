// The form that asks a question about a clip.

import { call } from "./api.js";
import { busyForm } from "./busy_form.js";
import { $, answerBar, el, formatPercent, spokenNumbers } from "./dom.js";
import { modalitiesNote } from "./matches.js";

const TOP = 5;
const MIN_CONFIDENCE = 20; // percent
const parseCandidates = () => $("candidates").value.split(/[\n,]/).map((item) => item.trim()).filter(Boolean);

// Among few candidates even a guess has a high probability, so the limit is at least 1.5 times that of a guess.
const fittingLimit = (count) => (count ? Math.max(MIN_CONFIDENCE, Math.min(95, Math.round(150 / count))) : MIN_CONFIDENCE);

// ``getSpan()`` returns the span in question. Returns a function that clears the answers.
export function prepareQuestionForm(getSpan) {
  const form = busyForm($("question-form"), $("answers"));
  $("question-form").onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question) return $("question").focus();
    const candidates = parseCandidates();
    const minConfidence = Math.min(100, Math.max(0, Number($("min-confidence").value || fittingLimit(candidates.length)))) / 100;
    form.run(async (signal) => {
      const body = { ...getSpan(), question, top: TOP, abstain_below: minConfidence, ...(candidates.length ? { candidates } : {}) };
      return renderAnswers(await call("POST", "/v1/answers", body, signal), minConfidence);
    });
  };
  $("candidates").oninput = () => ($("min-confidence").placeholder = fittingLimit(parseCandidates().length));
  return form.clear;
}

function renderAnswers({ answers, abstained, modalities, out_of_vocabulary: outOfVocabulary }, minConfidence) {
  const names = outOfVocabulary.map((item) => `“${item}”`).join(", ");
  if (!answers.length) {
    const message = `The model knows none of these answers: ${names}.`;
    return { shown: [el("p", { className: "not-confident", textContent: message })], message };
  }
  return {
    shown: [
      abstained ? notConfident(answers, minConfidence) : null,
      ...answers.map(answerBar),
      outOfVocabulary.length ? el("p", { className: "facts", textContent: `The model does not know, and has not scored: ${names}.` }) : null,
      ...modalitiesNote(modalities),
    ].filter(Boolean),
    message: [abstained ? "Not confident." : "", answers.map(({ text, probability }) => `${text} ${spokenNumbers(formatPercent(probability))}`).join(", ")].join(" ").trim(),
  };
}

function notConfident(answers, minConfidence) {
  const reason = `The likeliest answer, “${answers[0].text}”, has ${formatPercent(answers[0].probability)}, below the minimum confidence of ${Math.round(minConfidence * 100)}%.`;
  return el("p", { className: "not-confident" }, el("b", { textContent: "Not confident. " }), reason);
}
