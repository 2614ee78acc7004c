// Questions about a clip: the answers that the model weighs, each with its probability, or that it is not sure.

import { call } from "./api.js";
import { $, spokenNumbers, answerBar, el, formatPercent } from "./dom.js";
import { busyForm } from "./busy_form.js";

const TOP = 5;

// ``subject()`` says which clip is meant. Returns what clears the answers.
export function prepareQuestionForm(getSpan) {
  const form = busyForm($("question-form"), $("answers"));
  $("question-form").onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question) return $("question").focus();
    const candidates = $("candidates").value.split(/[\n,]/).map((item) => item.trim()).filter(Boolean);
    const minConfidence = Math.min(100, Math.max(0, Number($("unsure").value))) / 100;
    form.run(async (signal) => {
      const body = { ...getSpan(), question, top: TOP, abstain_below: minConfidence, ...(candidates.length ? { candidates } : {}) };
      return renderAnswers(await call("POST", "/v1/answers", body, signal), minConfidence);
    });
  };
  return form.clear;
}

function renderAnswers({ answers, abstained, unknown }, minConfidence) {
  const names = unknown.map((item) => `“${item}”`).join(", ");
  return {
    shown: [
      abstained ? notConfident(answers, minConfidence) : null,
      ...answers.map(answerBar),
      unknown.length ? el("p", { className: "facts", textContent: `This model knows no answer ${names}, so nothing is said of it.` }) : null,
    ].filter(Boolean),
    told: [abstained ? "Not sure." : "", answers.map(({ text, probability }) => `${text} ${spokenNumbers(formatPercent(probability))}`).join(", ")].join(" ").trim(),
  };
}

function notConfident(answers, minConfidence) {
  const reason = answers.length
    ? `The likeliest answer, “${answers[0].text}”, has ${formatPercent(answers[0].probability)}; ${Math.round(minConfidence * 100)}% was asked for.`
    : "It knows none of these answers.";
  return el("p", { className: "unsure" }, el("b", { textContent: "Not sure. " }), reason);
}
