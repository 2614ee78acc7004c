// The form that asks a question about a clip.

import { call } from "./api.js";
import { busyForm } from "./busy_form.js";
import { $, answerBar, el, formatPercent, spokenNumbers } from "./dom.js";

const TOP = 5;

// ``getSpan()`` returns the span in question. Returns a function that clears the answers.
export function prepareQuestionForm(getSpan) {
  const form = busyForm($("question-form"), $("answers"));
  $("question-form").onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question) return $("question").focus();
    const candidates = $("candidates").value.split(/[\n,]/).map((item) => item.trim()).filter(Boolean);
    const minConfidence = Math.min(100, Math.max(0, Number($("min-confidence").value))) / 100;
    form.run(async (signal) => {
      const body = { ...getSpan(), question, top: TOP, abstain_below: minConfidence, ...(candidates.length ? { candidates } : {}) };
      return renderAnswers(await call("POST", "/v1/answers", body, signal), minConfidence);
    });
  };
  return form.clear;
}

function renderAnswers({ answers, abstained, out_of_vocabulary: outOfVocabulary }, minConfidence) {
  const names = outOfVocabulary.map((item) => `“${item}”`).join(", ");
  return {
    shown: [
      abstained ? notConfident(answers, minConfidence) : null,
      ...answers.map(answerBar),
      outOfVocabulary.length ? el("p", { className: "facts", textContent: `Not in the model’s vocabulary, so not scored: ${names}.` }) : null,
    ].filter(Boolean),
    message: [abstained ? "Not confident." : "", answers.map(({ text, probability }) => `${text} ${spokenNumbers(formatPercent(probability))}`).join(", ")].join(" ").trim(),
  };
}

function notConfident(answers, minConfidence) {
  const reason = answers.length
    ? `The likeliest answer, “${answers[0].text}”, has ${formatPercent(answers[0].probability)}, below the minimum confidence of ${Math.round(minConfidence * 100)}%.`
    : "None of these answers is in the model’s vocabulary.";
  return el("p", { className: "not-confident" }, el("b", { textContent: "Not confident. " }), reason);
}
