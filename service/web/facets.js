// Facets: values of fields to choose from, with numbers of videos. A choice is conditions of the filter.

import { call, collectionPath } from "./api.js";
import { currentCollection, currentName } from "./collections.js";
import { $, el } from "./dom.js";
import { currentConditions, isSameCondition, readRows, replaceConditions, setKnownFields } from "./filter_form.js";

const MAX_FIELDS = 3; // metadata fields
let source = null; // name and sizes of the collection that the facets are of
let facets = []; // {element, choices: [{label, conditions}]}
let wordCounts = {}; // signal -> number of videos with such words
let onChange = () => {};

export const prepareFacets = (search) => (onChange = search);

export function clearFacets() {
  source = null;
  facets = [];
  wordCounts = {};
  setKnownFields([]);
  $("facets").replaceChildren();
}

// Whether videos have words of this signal; false until facets are loaded.
export const hasWords = (signal) => wordCounts[signal] > 0;

// Load the facets if the collection has changed, and show which are chosen.
export async function showFacets() {
  const { name, videos, clips, bytes } = currentCollection() || {};
  const state = `${name} ${videos} ${clips} ${bytes}`;
  if (name && state !== source) {
    source = state;
    try {
      const loaded = await call("GET", collectionPath(name, "facets"));
      if (state !== source || name !== currentName()) return;
      setKnownFields(loaded.metadata);
      wordCounts = loaded;
      facets = createFacets(loaded, videos);
      $("facets").replaceChildren(...facets.map(({ element }) => element));
    } catch {
      source = null; // tried again with the next results
    }
  }
  for (const { element, choices } of facets) {
    const chosen = choices.findIndex(isChosen);
    if (element.matches("button")) element.setAttribute("aria-pressed", String(chosen >= 0));
    else element.value = chosen;
  }
}

// Whether a facet shows this condition.
export const isShownAsFacet = (condition) => facets.some(({ choices }) =>
  choices.some((choice) => isChosen(choice) && choice.conditions.some((other) => isSameCondition(condition, other))));

const isChosen = ({ conditions }) => conditions.every((condition) => currentConditions().some((other) => isSameCondition(condition, other)));

function createFacets({ folders, added, durations, speech, screen_text: screenText, caption, metadata }, total) {
  const choice = (label, videos, ...conditions) => ({ label: `${label} (${videos})`, conditions });
  const condition = (field, comparison, value) => ({ field, comparison, value });
  const toggle = (label, videos, field) => (videos > 0 && videos < total ? createToggle(choice(label, videos, condition(field, "ne", ""))) : null);
  return [
    createSelect("Folder", withParents(folders).map(({ value, label, videos }) => choice(label, videos, condition("path", "prefix", value)))),
    createSelect("Added", added.map(({ start, end, videos }) =>
      choice(formatRange(start, end), videos, condition("added_at", "gte", start), condition("added_at", "lt", end)))),
    createSelect("Length", durations.map(({ min, max, videos }) => choice(formatDurations(min, max), videos,
      ...(max === 0 ? [condition("duration", "eq", 0)] : [condition("duration", min ? "gte" : "gt", min)]),
      ...(max ? [condition("duration", "lt", max)] : [])))),
    ...metadata.filter(({ videos, values }) => values.length > 1 && values.reduce((sum, value) => sum + value.videos, 0) === videos).slice(0, MAX_FIELDS)
      .map(({ field, values }) => createSelect(field, values.map(({ value, videos }) => choice(value, videos, condition(field, "eq", value))))),
    toggle("With speech", speech, "clip.text"),
    toggle("With screen text", screenText, "clip.screen_text"),
    toggle("With captions", caption, "clip.caption"),
  ].filter(Boolean);
}

// One value does not narrow a search.
function createSelect(name, choices) {
  if (choices.length < 2) return null;
  const element = el("select", { "aria-label": name }, el("option", { value: -1, textContent: `${name}: any` }),
    ...choices.map(({ label }, index) => el("option", { value: index, textContent: label })));
  element.onchange = () => choose(choices, choices[element.value]);
  return { element, choices };
}

function createToggle(choice) {
  const element = el("button", { type: "button", className: "toggle", textContent: choice.label });
  element.onclick = () => choose([choice], isChosen(choice) ? null : choice);
  return { element, choices: [choice] };
}

function choose(choices, chosen) {
  if (!readRows()) return;
  replaceConditions(choices.filter(isChosen).flatMap(({ conditions }) => conditions), chosen ? chosen.conditions : []);
  onChange();
}

// Folders below the one that contains all, and their parents, with labels relative to it. A folder whose videos are all in one of its
// subfolders is left out.
function withParents(folders) {
  const counts = new Map();
  for (const { value, videos } of folders) {
    const parts = value.split("/").slice(1, -1);
    for (let depth = 0; depth <= parts.length; depth += 1) {
      const parent = ["", ...parts.slice(0, depth), ""].join("/");
      counts.set(parent, (counts.get(parent) || 0) + videos);
    }
  }
  const total = counts.get("/") || 0;
  const start = Math.max(0, ...[...counts].filter(([, videos]) => videos === total).map(([path]) => path.length)); // of the longest common path
  const hasEqualSubfolder = ([path, videos]) => [...counts].some(([other, count]) => count === videos && other !== path && other.startsWith(path));
  return [...counts].filter((folder) => folder[0].length > start && !hasEqualSubfolder(folder)).sort()
    .map(([value, videos]) => ({ value, videos, label: value.slice(start, -1) }));
}

function formatRange(start, end) {
  const isDay = Date.parse(end) - Date.parse(start) <= 86400000;
  return new Date(start).toLocaleDateString("en", { timeZone: "UTC", month: "short", year: "numeric", ...(isDay ? { day: "numeric" } : {}) });
}

function formatDurations(min, max) {
  if (max === 0) return "pictures";
  if (!min) return `under ${max / 60} min`;
  return max ? `${min / 60} to ${max / 60} min` : `over ${min / 60} min`;
}
