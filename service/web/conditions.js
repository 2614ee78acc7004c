// Conditions of a query: texts that must also fit ("and"), or must not ("but not").

import { $, el, select } from "./dom.js";

const AND = "1";
const NOT = "-0.5"; // weights of the text
let onChange = () => {};

const rows = () => [...$("conditions").children].map((row) => [row.querySelector("select"), row.querySelector("input")]);

// {text, weight} of the conditions with a text.
export const readConditions = () => rows().map(([kind, input]) => ({ text: input.value.trim(), weight: Number(kind.value) })).filter(({ text }) => text);

export function setConditions(all, none) {
  $("conditions").replaceChildren(...all.map((text) => createRow(AND, text)), ...none.map((text) => createRow(NOT, text)));
}

function createRow(weight, text = "") {
  const row = el("div", { className: "query-condition" },
    select([[AND, "and"], [NOT, "but not"]], weight, { "aria-label": "Relation", onchange: () => onChange() }),
    el("input", { type: "search", value: text, maxLength: 4000, autocomplete: "off", spellcheck: false, placeholder: "for example: a dog", "aria-label": "Further condition" }),
    el("button", { type: "button", textContent: "×", "aria-label": "Remove the condition", onclick: () => {
      row.remove();
      $("query").focus();
      onChange();
    } }));
  return row;
}

export function prepareConditions(search) {
  onChange = () => $("query").value.trim() && search();
  for (const [id, weight] of [["condition-and", AND], ["condition-not", NOT]]) {
    $(id).onclick = () => {
      $("conditions").append(createRow(weight));
      $("conditions").lastChild.querySelector("input").focus();
    };
  }
}
