// The filter form: rows of field, comparison and value, and the JSON filter of the API.

import { $, el } from "./dom.js";

const COMPARISONS = { // no prototype: fields may be named "constructor"
  __proto__: null, eq: "is", ne: "is not", contains: "contains", prefix: "starts with", gte: "is at least", gt: "is more than", lte: "is at most", lt: "is less than", in: "is one of",
};
const SYMBOLS = { gte: "≥", gt: ">", lte: "≤", lt: "<" };
const DATE_LABELS = { eq: "is on", gte: "is on or after", gt: "is after", lte: "is on or before", lt: "is before" };
const ORDER = ["eq", "ne", "gte", "gt", "lte", "lt", "in"];
const COMPARISONS_OF = {
  text: ["eq", "ne", "contains", "prefix", "in", "gte", "lte"], number: ORDER, seconds: ORDER, date: Object.keys(DATE_LABELS), boolean: ["eq", "ne"],
  any: Object.keys(COMPARISONS),
};
const EXPECTED = {
  number: "Enter a number.", seconds: "Enter seconds, or minutes and seconds such as 1:30.", date: "Enter a date such as 2026-03-31.",
  boolean: "Enter true or false.",
};
const FIELD_TYPES = { // built-in fields
  __proto__: null, title: "text", duration: "seconds", added_at: "date", width: "number", height: "number", video_id: "number", path: "text",
  content_sha256: "text", "clip.start": "seconds", "clip.end": "seconds", "clip.length": "seconds", "clip.text": "text",
  "clip.screen_text": "text", "clip.caption": "text",
};
const FIELD_HINTS = {
  __proto__: null, title: "title of the video", path: "folder and file name", duration: "duration of the video, s or m:ss", added_at: "date when it was added",
  width: "pixels", height: "pixels", "clip.text": "words spoken in the clip", "clip.screen_text": "words shown in the clip",
  "clip.caption": "generated caption of the clip",
  "clip.start": "start of the clip, s or m:ss", "clip.end": "end of the clip, s or m:ss", "clip.length": "duration of the clip, s",
};

let knownFields = new Map(); // metadata field -> its most frequent values
let conditions = []; // {field, comparison, value}: the applied conditions
let otherNodes = []; // nodes of a linked filter that rows cannot express

export function currentFilter() {
  const all = [...conditions.map(conditionToNode), ...otherNodes];
  return all.length > 1 ? { and: all } : all[0] || null;
}

// Apply the rows; those without field or value are left out. False, with the field marked, if a value is invalid.
export function readRows() {
  clearMarks();
  const parsed = [];
  for (const row of rows()) {
    const field = row.field.value.trim();
    const text = row.value.value.trim();
    if (!field && !text) continue;
    if (!field || !text) {
      row.error.textContent = field ? 'Not applied: enter a value; "" is empty text.' : "Not applied: enter a field.";
      continue;
    }
    const comparison = row.comparison.value;
    const value = parseValue(field, comparison, text);
    if ([].concat(value).includes(undefined)) return markInvalid(row, row.value, EXPECTED[typeOf(field)]);
    parsed.push({ field, comparison, value });
  }
  conditions = parsed;
  return true;
}

export const currentConditions = () => conditions;

export const isSameCondition = (one, other) =>
  one.field === other.field && one.comparison === other.comparison && String(one.value) === String(other.value);

export function replaceConditions(removed, added) {
  conditions = [...conditions.filter((condition) => !removed.some((other) => isSameCondition(condition, other))), ...added];
  showRows();
}

export function setFilter(json) {
  conditions = [];
  otherNodes = [];
  if (json) for (const node of parseNodes(json)) (node.field && node.comparison ? conditions : otherNodes).push(node);
  showRows();
}

// Chips of the conditions for which ``isShown(condition)`` is true.
export function filterChips(onChange, isShown) {
  const chip = (text, remove) => el("li", { className: "query-chip" }, el("span", { textContent: text, title: text }),
    el("button", { type: "button", textContent: "×", "aria-label": `Remove filter ${text}`, onclick: () => {
      if (!readRows()) return;
      remove();
      onChange();
    } }));
  return [
    ...conditions.filter(isShown).map((condition) => chip(`${condition.field} ${SYMBOLS[condition.comparison] || COMPARISONS[condition.comparison]} ${[].concat(condition.value).join(", ")}`,
      () => replaceConditions([condition], []))),
    ...otherNodes.map((condition) => chip(JSON.stringify(condition), () => (otherNodes = otherNodes.filter((candidate) => candidate !== condition)))),
  ];
}

// Show an error of the service at its row.
export function showFilterError(message) {
  setOpen(true);
  clearMarks();
  const invalidRow = rows().find((row) => {
    const field = row.field.value.trim();
    return field && [`${field}.${row.comparison.value}:`, `${field}:`, `filter: ${field};`].some((label) => message.startsWith(label));
  });
  if (invalidRow) markInvalid(invalidRow, invalidRow.value, message);
  else $("filter-error").textContent = message;
}

// ``fields``: metadata fields with their most frequent values, as facets.
export function setKnownFields(fields) {
  knownFields = new Map(fields.map(({ field, values }) => [field, values.map(({ value }) => value)]));
  suggestFields();
}

function typeOf(field) {
  if (field in FIELD_TYPES) return FIELD_TYPES[field];
  const types = new Set((knownFields.get(field) || []).map((value) => typeof value));
  return types.size === 1 ? { string: "text" }[[...types][0]] || [...types][0] : "any";
}

function suggestFields() {
  const metadata = [...knownFields.keys()].map((field) => el("option", { value: field, label: `${field} (metadata)` }));
  const builtIn = Object.entries(FIELD_HINTS).map(([field, meaning]) => el("option", { value: field, label: `${field}: ${meaning}` }));
  $("filter-fields").replaceChildren(...metadata, ...builtIn);
}

function suggestValues(row) {
  const values = knownFields.get(row.field.value.trim()) || [];
  $("filter-values").replaceChildren(...values.map((value) => el("option", { value: formatValue(row.field.value.trim(), value) })));
  row.value.placeholder = FIELD_HINTS[row.field.value.trim()] || (values.length ? `such as ${values[0]}` : "value");
}

const rowByElement = new WeakMap();
const rows = () => [...$("filter-rows").children].map((box) => rowByElement.get(box));

function addRow({ field = "", comparison = "eq", value } = {}) {
  const row = {
    field: el("input", { value: field, autocomplete: "off", spellcheck: false, placeholder: "field", "aria-label": "Field" }),
    comparison: el("select", { "aria-label": "Comparison" }),
    value: el("input", { autocomplete: "off", spellcheck: false, placeholder: "value", "aria-label": "Value" }),
    error: el("p", { className: "error", role: "alert" }),
  };
  row.field.setAttribute("list", "filter-fields");
  row.value.setAttribute("list", "filter-values");
  if (value !== undefined) row.value.value = Array.isArray(value) ? value.map((condition) => formatValue(field, condition, ",")).join(", ") : formatValue(field, value);
  showType(row, comparison);
  row.field.oninput = () => showType(row);
  row.value.onfocus = () => suggestValues(row);
  row.box = el("div", { className: "condition" }, row.field, row.comparison, row.value,
    el("button", { type: "button", className: "quiet", textContent: "×", "aria-label": "Remove this condition", onclick: () => {
      row.box.remove();
      if (!rows().length) addRow();
      rows()[0].field.focus();
    } }), row.error);
  rowByElement.set(row.box, row);
  $("filter-rows").append(row.box);
  return row;
}

// Offer the comparisons of the field's type, with ``applied`` in any case, and a date picker for days.
function showType(row, applied = null) {
  const type = typeOf(row.field.value.trim());
  const names = COMPARISONS_OF[type];
  const chosen = applied || row.comparison.value;
  row.comparison.replaceChildren(...(names.includes(chosen) || !applied ? names : [...names, applied])
    .map((name) => el("option", { value: name, textContent: (type === "date" && DATE_LABELS[name]) || COMPARISONS[name] })));
  row.comparison.value = chosen;
  if (row.comparison.selectedIndex < 0) row.comparison.selectedIndex = 0;
  row.value.type = type === "date" && /^(\d{4}-\d\d-\d\d)?$/.test(row.value.value) ? "date" : "text";
}

function showRows() {
  $("filter-rows").replaceChildren();
  conditions.forEach(addRow);
  if (!conditions.length) addRow();
  clearMarks();
}

function markInvalid(row, input, message) {
  setOpen(true);
  row.error.textContent = message;
  input.setAttribute("aria-invalid", "true");
  input.focus();
  return false;
}

function clearMarks() {
  $("filter-error").textContent = "";
  for (const row of rows()) {
    row.error.textContent = "";
    for (const input of [row.field, row.value]) input.removeAttribute("aria-invalid");
  }
}

function setOpen(isOpen) {
  $("filter").hidden = !isOpen;
  $("filter-open").setAttribute("aria-expanded", String(isOpen));
}

export function prepareFilter(search) {
  showRows();
  suggestFields();
  $("filter-open").onclick = () => {
    setOpen($("filter").hidden);
    if (!$("filter").hidden) rows()[0].field.focus();
  };
  $("filter-add").onclick = () => addRow().field.focus();
  $("filter-clear").onclick = () => {
    setFilter(null);
    search();
  };
}

function parseValue(field, comparison, text) {
  if (comparison !== "in") return parseScalar(field, text);
  return (text.match(/"[^"]*"|[^,]+/g) || []).map((condition) => condition.trim()).filter(Boolean).map((condition) => parseScalar(field, condition));
}

// Values keep their type: that of the field, otherwise by their form. Undefined if the field's type does not allow it.
function parseScalar(field, text) {
  const type = typeOf(field);
  const isQuoted = /^".*"$/.test(text);
  if (isQuoted && (type === "text" || !(field in FIELD_TYPES))) return text.slice(1, -1);
  if (type === "text") return text;
  if (type === "date" && /^\d{4}-\d\d-\d\d/.test(text)) return text;
  if ((type === "any" || type === "boolean") && (text === "true" || text === "false")) return text === "true";
  const parts = text.split(":");
  if (type === "seconds" && parts.length > 1 && parts.every((part) => /^\d+(\.\d+)?$/.test(part))) {
    return parts.reduce((total, part) => total * 60 + Number(part), 0);
  }
  if (type !== "boolean" && text !== "" && Number.isFinite(Number(text))) return Number(text);
  return type === "any" ? text : undefined;
}

// The inverse of ``parseScalar``. ``separator`` is quoted.
function formatValue(field, value, separator = null) {
  const text = String(value);
  const isPlain = text !== "" && parseScalar(field, text) === value && text.trim() === text && !(separator && text.includes(separator));
  return isPlain ? text : `"${text}"`;
}

function conditionToNode({ field, comparison, value }) {
  const operand = comparison === "eq" ? value : { [comparison]: value };
  return field.startsWith("clip.") && field in FIELD_TYPES ? { clip: { [field.slice(5)]: operand } } : { [field]: operand };
}

function parseNodes(json) {
  return Object.entries(json).flatMap(([key, value]) => {
    if (key === "and" && value?.length && value.every?.((node) => node instanceof Object && !Array.isArray(node))) return value.flatMap(parseNodes);
    if (["and", "or", "not"].includes(key)) return [{ [key]: value }];
    if (key === "clip" && value instanceof Object && Object.keys(value).length && Object.keys(value).every((field) => `clip.${field}` in FIELD_TYPES)) {
      return Object.entries(value).flatMap(([field, operand]) => parseComparisons(`clip.${field}`, operand));
    }
    return parseComparisons(key, value);
  });
}

function parseComparisons(field, operand) {
  const comparisons = Object.entries(operand instanceof Object ? operand : { eq: operand });
  if (!comparisons.length) return [conditionToNode({ field, comparison: "eq", value: operand })];
  return comparisons.map(([comparison, value]) =>
    comparison in COMPARISONS && (typeof value !== "object" || Array.isArray(value))
      ? { field, comparison, value }
      : conditionToNode({ field, comparison, value }));
}
