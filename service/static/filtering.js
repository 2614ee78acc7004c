// The filter: rows of field, comparison and value, all of which must hold; and the JSON that the service takes.

import { $, el } from "./parts.js";

const COMPARISONS = {
  eq: ["is", "is"], ne: ["is not", "is not"], gte: ["is at least", "≥"], gt: ["is more than", ">"], lte: ["is at most", "≤"],
  lt: ["is less than", "<"], in: ["is one of", "is one of"], prefix: ["begins with", "begins with"],
};
// What every video or clip has, and how it is written.
const GIVEN = {
  title: "text", duration: "seconds", added_at: "date", width: "number", height: "number", video_id: "number", path: "text",
  content_sha256: "text", "clip.start": "seconds", "clip.end": "seconds", "clip.length": "seconds", "clip.text": "text",
};
const MEANT = {
  title: "title of the video", duration: "of the video, s or m:ss", added_at: "a day such as 2026-03-31", width: "pixels",
  height: "pixels", "clip.start": "where the clip begins, s or m:ss", "clip.end": "where it ends, s or m:ss",
  "clip.length": "of the clip, s", "clip.text": "what is said in it",
};
const VALUES_OFFERED = 50;

const seen = new Map(); // field of metadata -> its values
let conditions = []; // {field, comparison, value}: what is asked for now
let rest = []; // filters of an address that rows cannot say
let fetchMore = () => {};

// What is asked for

export function filter() {
  const all = [...conditions.map(nodeOf), ...rest];
  return all.length > 1 ? { and: all } : all[0] || null;
}

// Takes over what the rows say; false, with the place marked, where they say nothing that can be asked for.
export function takeRows() {
  clearMarks();
  const taken = [];
  for (const row of rows()) {
    const field = row.field.value.trim();
    const text = row.value.value.trim();
    if (!field && !text) continue;
    if (!field) return mark(row, row.field, "Name a field.");
    if (!text) return mark(row, row.value, 'Give a value; "" is the empty text.');
    taken.push({ field, comparison: row.comparison.value, value: read(field, row.comparison.value, text) });
  }
  conditions = taken;
  return true;
}

export function setFilter(json) {
  conditions = [];
  rest = [];
  if (json) for (const node of nodesOf(json)) (node.field ? conditions : rest).push(node);
  showRows();
}

export function filterChips(onChange) {
  const chip = (text, forget) => el("li", { className: "picked" }, el("span", { textContent: text, title: text }),
    el("button", { type: "button", textContent: "×", "aria-label": `Do not ask that ${text}`, onclick: () => {
      forget();
      showRows();
      onChange();
    } }));
  return [
    ...conditions.map((one) => chip(`${one.field} ${COMPARISONS[one.comparison][1]} ${[].concat(one.value).join(", ")}`,
      () => (conditions = conditions.filter((other) => other !== one)))),
    ...rest.map((one) => chip(JSON.stringify(one), () => (rest = rest.filter((other) => other !== one)))),
  ];
}

// What the service says of a filter, at the row that it means.
export function refuse(message) {
  open(true);
  clearMarks();
  const meant = rows().find((row) => {
    const field = row.field.value.trim();
    return field && [`${field}.${row.comparison.value}:`, `${field}:`, `filter: ${field};`].some((label) => message.startsWith(label));
  });
  if (meant) mark(meant, meant.value, message);
  else $("filter-error").textContent = message;
}

// What may be offered

export function learnFields(videos) {
  for (const { metadata } of videos) {
    for (const [field, value] of Object.entries(metadata)) {
      if (!seen.has(field)) seen.set(field, new Set());
      if (seen.get(field).size < VALUES_OFFERED) seen.get(field).add(value);
    }
  }
}

export const forgetFields = () => seen.clear();

function offerFields() {
  const metadata = [...seen.keys()].sort().map((field) => el("option", { value: field, label: `${field} (metadata)` }));
  const given = Object.entries(MEANT).map(([field, meaning]) => el("option", { value: field, label: `${field}: ${meaning}` }));
  $("filter-fields").replaceChildren(...metadata, ...given);
}

function offerValues(row) {
  const values = [...(seen.get(row.field.value.trim()) || [])];
  $("filter-values").replaceChildren(...values.map((value) => el("option", { value: written(row.field.value.trim(), value) })));
  row.value.placeholder = MEANT[row.field.value.trim()] || (values.length ? `such as ${values[0]}` : "value");
}

// Rows

const rowsOf = new WeakMap();
const rows = () => [...$("filter-rows").children].map((box) => rowsOf.get(box));

function addRow({ field = "", comparison = "eq", value } = {}) {
  const row = {
    field: el("input", { value: field, autocomplete: "off", spellcheck: false, placeholder: "field", "aria-label": "Field" }),
    comparison: el("select", { "aria-label": "Comparison" },
      ...Object.entries(COMPARISONS).map(([name, [words]]) => el("option", { value: name, textContent: words }))),
    value: el("input", { autocomplete: "off", spellcheck: false, placeholder: "value", "aria-label": "Value" }),
    error: el("p", { className: "error", role: "alert" }),
  };
  row.field.setAttribute("list", "filter-fields");
  row.value.setAttribute("list", "filter-values");
  row.comparison.value = comparison;
  if (value !== undefined) row.value.value = Array.isArray(value) ? value.map((one) => written(field, one, ",")).join(", ") : written(field, value);
  row.value.onfocus = () => offerValues(row);
  row.box = el("div", { className: "condition" }, row.field, row.comparison, row.value,
    el("button", { type: "button", className: "quiet", textContent: "×", "aria-label": "Remove this condition", onclick: () => {
      row.box.remove();
      if (!rows().length) addRow();
      rows()[0].field.focus();
    } }), row.error);
  rowsOf.set(row.box, row);
  $("filter-rows").append(row.box);
  return row;
}

function showRows() {
  $("filter-rows").replaceChildren();
  conditions.forEach(addRow);
  if (!conditions.length) addRow();
  clearMarks();
}

function mark(row, input, message) {
  open(true);
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

function open(isOpen) {
  $("filter").hidden = !isOpen;
  $("filter-open").setAttribute("aria-expanded", String(isOpen));
}

// ``fetchFields`` is called when the form opens, to learn fields of videos that were not looked at yet.
export function prepareFilter(fetchFields, search) {
  fetchMore = fetchFields;
  showRows();
  $("filter-open").onclick = async () => {
    open($("filter").hidden);
    if ($("filter").hidden) return;
    rows()[0].field.focus();
    offerFields();
    await fetchMore();
    offerFields();
  };
  $("filter-add").onclick = () => addRow().field.focus();
  $("filter-clear").onclick = () => {
    setFilter(null);
    search();
  };
}

// Values and JSON

function read(field, comparison, text) {
  if (comparison !== "in") return readOne(field, text);
  return (text.match(/"[^"]*"|[^,]+/g) || []).map((one) => one.trim()).filter(Boolean).map((one) => readOne(field, one));
}

// Values keep their type, so that of a text is told by what is known of the field, else by how it is written.
function readOne(field, text) {
  if (/^".*"$/.test(text)) return text.slice(1, -1);
  const known = seen.get(field);
  const kind = GIVEN[field] || (known && [...known].every((value) => typeof value === "string") ? "text" : "any");
  if (kind === "text") return text;
  const parts = text.split(":");
  if (kind === "seconds" && parts.length > 1 && parts.every((part) => /^\d+(\.\d+)?$/.test(part))) {
    return parts.reduce((total, part) => total * 60 + Number(part), 0);
  }
  if (kind === "any" && (text === "true" || text === "false")) return text === "true";
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

// As ``readOne`` reads it; ``separator`` is what would cut it in two.
function written(field, value, separator = null) {
  const text = String(value);
  const isPlain = text !== "" && readOne(field, text) === value && text.trim() === text && !(separator && text.includes(separator));
  return isPlain ? text : `"${text}"`;
}

function nodeOf({ field, comparison, value }) {
  const compared = comparison === "eq" ? value : { [comparison]: value };
  return field.startsWith("clip.") && field in GIVEN ? { clip: { [field.slice(5)]: compared } } : { [field]: compared };
}

function nodesOf(json) {
  return Object.entries(json).flatMap(([key, value]) => {
    if (key === "and" && Array.isArray(value)) return value.flatMap(nodesOf);
    if (key === "or" || key === "not" || value === null) return [{ [key]: value }];
    if (key === "clip" && typeof value === "object" && Object.keys(value).every((field) => `clip.${field}` in GIVEN)) {
      return Object.entries(value).flatMap(([field, compared]) => comparisonsOf(`clip.${field}`, compared));
    }
    return comparisonsOf(key, value);
  });
}

function comparisonsOf(field, compared) {
  if (typeof compared !== "object" || compared === null) return [{ field, comparison: "eq", value: compared }];
  return Object.entries(compared).map(([comparison, value]) =>
    comparison in COMPARISONS && (typeof value !== "object" || Array.isArray(value))
      ? { field, comparison, value }
      : nodeOf({ field, comparison, value }));
}
