// Questions about a clip: the answers that the model weighs, each with its probability, or that it is not sure.

import { call } from "./api.js";
import { $, aloud, answerBar, el, percent } from "./parts.js";
import { looking } from "./working.js";

const TOP = 5;

// ``subject()`` says which clip is meant. Returns what clears the answers.
export function prepareAnswers(subject) {
  const look = looking($("question-form"), $("answers"));
  $("question-form").onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question) return $("question").focus();
    const candidates = $("candidates").value.split(/[\n,]/).map((one) => one.trim()).filter(Boolean);
    const least = Math.min(100, Math.max(0, Number($("unsure").value))) / 100;
    look.run(async (signal) => {
      const body = { ...subject(), question, top: TOP, abstain_below: least, ...(candidates.length ? { candidates } : {}) };
      return answered(await call("POST", "/v1/answers", body, signal), least);
    });
  };
  return look.clear;
}

function answered({ answers, abstained, out_of_vocabulary: unknown }, least) {
  const quoted = unknown.map((one) => `“${one}”`).join(", ");
  return {
    shown: [
      abstained ? unsure(answers, least) : null,
      ...answers.map(answerBar),
      unknown.length ? el("p", { className: "facts", textContent: `This model knows no answer ${quoted}, so nothing is said of it.` }) : null,
    ].filter(Boolean),
    told: [abstained ? "Not sure." : "", answers.map(({ text, probability }) => `${text} ${aloud(percent(probability))}`).join(", ")].join(" ").trim(),
  };
}

function unsure(answers, least) {
  const why = answers.length
    ? `The likeliest answer, “${answers[0].text}”, has ${percent(answers[0].probability)}; ${Math.round(least * 100)}% was asked for.`
    : "It knows none of these answers.";
  return el("p", { className: "unsure" }, el("b", { textContent: "Not sure. " }), why);
}
