// Fields of forms that are made as they are needed.

import { el } from "./dom.js";

export const field = (text, input) => el("label", { className: "field" }, el("span", { textContent: text }), input);

export const checkbox = (name, text, isOn = false, properties = {}) =>
  el("label", { className: "check" }, el("input", { type: "checkbox", name, checked: isOn, ...properties }), ` ${text}`);

// ``options``: [value, text] each.
export function select(options, value = null, properties = {}) {
  const made = el("select", properties, ...options.map(([each, text]) => el("option", { value: each, textContent: text })));
  if (value !== null) made.value = value;
  return made;
}

export const INDEX_KINDS = [
  ["auto", "automatic: follows the number of clips"],
  ["flat", "flat: exact, compares every clip"],
  ["hnsw", "hnsw: quick, more memory"],
  ["ivfpq", "ivfpq: small, for millions of clips"],
];
