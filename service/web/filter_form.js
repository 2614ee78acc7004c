// The filter form: rows of field, comparison and value, and the JSON filter of the API.

import { $, el } from "./dom.js";

const COMPARISONS = {
  eq: ["is", "is"], ne: ["is not", "is not"], gte: ["is at least", "≥"], gt: ["is more than", ">"], lte: ["is at most", "≤"],
  lt: ["is less than", "<"], in: ["is one of", "is one of"], prefix: ["starts with", "starts with"],
};
// Built-in fields and their types.
const FIELD_TYPES = {
  title: "text", duration: "seconds", added_at: "date", width: "number", height: "number", video_id: "number", path: "text",
  content_sha256: "text", "clip.start": "seconds", "clip.end": "seconds", "clip.length": "seconds", "clip.text": "text",
};
const FIELD_HINTS = {
  title: "title of the video", duration: "duration of the video, s or m:ss", added_at: "a date such as 2026-03-31", width: "pixels",
  height: "pixels", "clip.start": "start of the clip, s or m:ss", "clip.end": "end of the clip, s or m:ss",
  "clip.length": "duration of the clip, s", "clip.text": "text of the clip",
};
const MAX_VALUES = 50;

const knownFields = new Map(); // metadata field -> its values
let conditions = []; // {field, comparison, value}: the applied conditions
let otherNodes = []; // nodes of a linked filter that rows cannot express
let loadMoreFields = () => {};

// Filter

export function currentFilter() {
  const all = [...conditions.map(conditionToNode), ...otherNodes];
  return all.length > 1 ? { and: all } : all[0] || null;
}

// Apply the rows. Returns false, with the field marked, if a row is invalid.
export function readRows() {
  clearMarks();
  const parsed = [];
  for (const row of rows()) {
    const field = row.field.value.trim();
    const text = row.value.value.trim();
    if (!field && !text) continue;
    if (!field) return markInvalid(row, row.field, "Enter a field.");
    if (!text) return markInvalid(row, row.value, 'Enter a value; use "" for empty text.');
    parsed.push({ field, comparison: row.comparison.value, value: parseValue(field, row.comparison.value, text) });
  }
  conditions = parsed;
  return true;
}

export function setFilter(json) {
  conditions = [];
  otherNodes = [];
  if (json) for (const node of parseNodes(json)) (node.field ? conditions : otherNodes).push(node);
  showRows();
}

export function filterChips(onChange) {
  const chip = (text, remove) => el("li", { className: "query-chip" }, el("span", { textContent: text, title: text }),
    el("button", { type: "button", textContent: "×", "aria-label": `Remove filter ${text}`, onclick: () => {
      remove();
      showRows();
      onChange();
    } }));
  return [
    ...conditions.map((condition) => chip(`${condition.field} ${COMPARISONS[condition.comparison][1]} ${[].concat(condition.value).join(", ")}`,
      () => (conditions = conditions.filter((candidate) => candidate !== condition)))),
    ...otherNodes.map((condition) => chip(JSON.stringify(condition), () => (otherNodes = otherNodes.filter((candidate) => candidate !== condition)))),
  ];
}

// Show an error of the service at the row it refers to.
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

// Suggestions

export function addKnownFields(videos) {
  for (const { metadata } of videos) {
    for (const [field, value] of Object.entries(metadata)) {
      if (!knownFields.has(field)) knownFields.set(field, new Set());
      if (knownFields.get(field).size < MAX_VALUES) knownFields.get(field).add(value);
    }
  }
}

export const clearKnownFields = () => knownFields.clear();

function suggestFields() {
  const metadata = [...knownFields.keys()].sort().map((field) => el("option", { value: field, label: `${field} (metadata)` }));
  const builtIn = Object.entries(FIELD_HINTS).map(([field, meaning]) => el("option", { value: field, label: `${field}: ${meaning}` }));
  $("filter-fields").replaceChildren(...metadata, ...builtIn);
}

function suggestValues(row) {
  const values = [...(knownFields.get(row.field.value.trim()) || [])];
  $("filter-values").replaceChildren(...values.map((value) => el("option", { value: formatValue(row.field.value.trim(), value) })));
  row.value.placeholder = FIELD_HINTS[row.field.value.trim()] || (values.length ? `such as ${values[0]}` : "value");
}

// Rows

const rowByElement = new WeakMap();
const rows = () => [...$("filter-rows").children].map((box) => rowByElement.get(box));

function addRow({ field = "", comparison = "eq", value } = {}) {
  const row = {
    field: el("input", { value: field, autocomplete: "off", spellcheck: false, placeholder: "field", "aria-label": "Field" }),
    comparison: el("select", { "aria-label": "Comparison" },
      ...Object.entries(COMPARISONS).map(([name, [label]]) => el("option", { value: name, textContent: label }))),
    value: el("input", { autocomplete: "off", spellcheck: false, placeholder: "value", "aria-label": "Value" }),
    error: el("p", { className: "error", role: "alert" }),
  };
  row.field.setAttribute("list", "filter-fields");
  row.value.setAttribute("list", "filter-values");
  row.comparison.value = comparison;
  if (value !== undefined) row.value.value = Array.isArray(value) ? value.map((condition) => formatValue(field, condition, ",")).join(", ") : formatValue(field, value);
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

// ``fetchFields()`` is called when the form opens, to load fields of more videos.
export function prepareFilter(fetchFields, search) {
  loadMoreFields = fetchFields;
  showRows();
  $("filter-open").onclick = async () => {
    setOpen($("filter").hidden);
    if ($("filter").hidden) return;
    rows()[0].field.focus();
    suggestFields();
    await loadMoreFields();
    suggestFields();
  };
  $("filter-add").onclick = () => addRow().field.focus();
  $("filter-clear").onclick = () => {
    setFilter(null);
    search();
  };
}

// Values and JSON

function parseValue(field, comparison, text) {
  if (comparison !== "in") return parseScalar(field, text);
  return (text.match(/"[^"]*"|[^,]+/g) || []).map((condition) => condition.trim()).filter(Boolean).map((condition) => parseScalar(field, condition));
}

// Values keep their type: that of a known field, otherwise by their form.
function parseScalar(field, text) {
  if (/^".*"$/.test(text)) return text.slice(1, -1);
  const values = knownFields.get(field);
  const type = FIELD_TYPES[field] || (values && [...values].every((value) => typeof value === "string") ? "text" : "any");
  if (type === "text") return text;
  const parts = text.split(":");
  if (type === "seconds" && parts.length > 1 && parts.every((part) => /^\d+(\.\d+)?$/.test(part))) {
    return parts.reduce((total, part) => total * 60 + Number(part), 0);
  }
  if (type === "any" && (text === "true" || text === "false")) return text === "true";
  return Number.isFinite(Number(text)) ? Number(text) : text;
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
    if (key === "and" && Array.isArray(value)) return value.flatMap(parseNodes);
    if (key === "or" || key === "not" || value === null) return [{ [key]: value }];
    if (key === "clip" && typeof value === "object" && Object.keys(value).every((field) => `clip.${field}` in FIELD_TYPES)) {
      return Object.entries(value).flatMap(([field, operand]) => parseComparisons(`clip.${field}`, operand));
    }
    return parseComparisons(key, value);
  });
}

function parseComparisons(field, operand) {
  if (typeof operand !== "object" || operand === null) return [{ field, comparison: "eq", value: operand }];
  return Object.entries(operand).map(([comparison, value]) =>
    comparison in COMPARISONS && (typeof value !== "object" || Array.isArray(value))
      ? { field, comparison, value }
      : conditionToNode({ field, comparison, value }));
}
