// The search form as a request and as an address.

import { call, collectionPath } from "./api.js";
import { currentCollection, currentName } from "./collections.js";
import { readConditions, setConditions } from "./conditions.js";
import { $ } from "./dom.js";
import { isShownAsFacet } from "./facets.js";
import { currentFilter, filterChips, setFilter, showFilterError } from "./filter_form.js";
import { recordSearch, searchQuery } from "./history.js";
import { chosenSignals, setSignals } from "./signals.js";
import { clearSimilar, setSimilarClip, setSimilarClipId, similarChip, similarQuery } from "./similar_query.js";

const RERANK = 20; // results, if the model states no number
export const PAGE_SIZE = 24;
const REFINED_PAGE_SIZE = 8; // fewer, since each takes seconds the first time
let savedQuery = ""; // the search in the address
let reranks = null; // chosen by the user; null: as the model states
const notReranking = new Set(); // fingerprints of models that cannot rerank

export function setReranking(choice) {
  reranks = choice;
  showReranking();
}

export function disableReranking() {
  notReranking.add(currentCollection().fingerprint);
  showReranking();
}

// The option as it is for the current collection.
export function showReranking() {
  $("rerank").disabled = notReranking.has(currentCollection()?.fingerprint);
  $("rerank-count").textContent = rerankCount();
  $("rerank").checked = !$("rerank").disabled && (reranks ?? Boolean(currentCollection()?.default_rerank));
}

// ``isAvailable``: whether the model estimates probabilities for the query.
export function showMinRelevance(isAvailable = !$("min-relevance").disabled) {
  const percent = Number($("min-relevance").value);
  $("min-relevance").disabled = !isAvailable;
  $("min-relevance-value").textContent = !isAvailable ? "not available: the model estimates no fit for this search" : percent ? `${percent}%` : "none";
}

const rerankCount = () => currentCollection()?.default_rerank || RERANK;

// The search in the form; ``hasQuery`` if there is a text or example.
export function readSearch() {
  const text = $("query").value.trim();
  const conditions = text ? readConditions() : [];
  const signals = chosenSignals(Boolean(text));
  const canRerank = text && !conditions.length && (!signals || signals.includes("visual")); // the fusion model compares one text with pictures
  return {
    text,
    conditions,
    like: similarQuery(),
    hasQuery: Boolean(text || similarQuery()),
    filter: currentFilter(),
    rerank: canRerank && $("rerank").checked ? rerankCount() : 0,
    refine: Boolean(text) && conditions.every(({ weight }) => weight < 0) && $("refine").checked, // by one text
    signals,
    group: $("group").value,
    minRelevance: $("min-relevance").disabled ? null : Number($("min-relevance").value) / 100 || null,
  };
}

// Return a page of results; the first one without ``cursor``.
export function runSearch({ text, conditions, like, filter, rerank, refine, signals, group, minRelevance }, { cursor, signal } = {}) {
  const all = { limit: refine ? REFINED_PAGE_SIZE : PAGE_SIZE, rerank, group, refine, signals, min_relevance: minRelevance, filter, cursor };
  const options = Object.fromEntries(Object.entries(all).filter(([, value]) => (value ?? false) !== false));
  const textParts = text ? [{ kind: "text", value: text }, ...conditions.map((part) => ({ kind: "text", value: part.text, weight: part.weight }))] : [];
  const path = collectionPath(currentName(), "search");
  if (!like) return call("POST", path, { ...(conditions.length ? { query: textParts } : { text }), ...options }, signal);
  if (like.clip) return call("POST", path, { query: [...textParts, { kind: "clip", value: like.clip, signal: like.signal }], ...options }, signal);
  if (cursor) return call("POST", path, { query: [...textParts, { kind: "file" }], ...options }, signal);
  const form = new FormData();
  form.append("file", like.file);
  if (text) form.append("query", JSON.stringify([...textParts, { kind: "file" }]));
  for (const [name, value] of Object.entries(options)) form.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  return call("POST", path, form, signal);
}

// Chips that are shown already stay, since a key may be pressed on their buttons while results arrive.
export function showChips(search) {
  const list = $("chips");
  const shown = [...list.children];
  const wasFocused = list.querySelector(":focus-visible");
  const chips = [similarChip(() => {
    clearSimilar();
    search();
  }), ...filterChips(search, (condition) => !isShownAsFacet(condition))].filter(Boolean).map((chip) => {
    const same = shown.find((other) => other.isEqualNode(chip)) || chip;
    same.lastChild.onclick = chip.lastChild.onclick;
    return same;
  });
  for (const chip of shown) if (!chips.includes(chip)) chip.remove();
  chips.forEach((chip, index) => {
    if (list.children[index] !== chip) list.insertBefore(chip, list.children[index] || null);
  });
  list.hidden = !chips.length;
  if (wasFocused && !wasFocused.isConnected) (list.querySelector("button") || $("query")).focus();
}

// Files cannot be in an address.
export function saveToAddress(isLoaded) {
  const { text, conditions, like, filter, group, minRelevance } = readSearch();
  const query = new URLSearchParams();
  if (currentName()) query.set("collection", currentName());
  if (text) query.set("q", text);
  for (const part of conditions) query.append(part.weight > 0 ? "and" : "not", part.text);
  if (like && like.clip) query.set(like.signal === "audio" ? "like_sound" : "like", like.clip);
  if (filter) query.set("filter", JSON.stringify(filter));
  if ($("group").selectedIndex) query.set("group", group);
  if (chosenSignals()) query.set("signals", chosenSignals().join());
  if (minRelevance) query.set("fit", $("min-relevance").value);
  if ($("refine").checked) query.set("refine", "1");
  if (reranks !== null && !$("rerank").disabled) query.set("rerank", reranks ? "1" : "0");
  savedQuery = query.size ? `?${query}` : "";
  recordSearch(savedQuery, isLoaded);
}

// Whether the address holds another search than the form.
export const isOtherSearch = () => searchQuery() !== savedQuery;

// Fill in the form from the address; return the collection that it names.
export function loadFromAddress() {
  savedQuery = searchQuery();
  const query = new URLSearchParams(location.search);
  $("query").value = query.get("q") || "";
  $("group").value = query.get("group");
  if ($("group").selectedIndex < 0) $("group").selectedIndex = 0;
  setConditions(query.getAll("and"), query.getAll("not"));
  setSignals(query.get("signals")?.split(",") || null);
  $("min-relevance").value = Number(query.get("fit")) || 0;
  showMinRelevance();
  $("refine").checked = query.get("refine") === "1";
  setReranking(query.has("rerank") ? query.get("rerank") !== "0" : null);
  if (query.get("like_sound")) setSimilarClipId(query.get("like_sound"), "audio");
  else if (query.get("like")) setSimilarClipId(query.get("like"));
  else clearSimilar();
  setFilter(null);
  if (query.get("filter")) loadFilter(query.get("filter"));
  return query.get("collection");
}

function loadFilter(text) {
  try {
    const json = JSON.parse(text);
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw new SyntaxError("expected a JSON object");
    setFilter(json);
  } catch (error) {
    showFilterError(`filter: ${text.slice(0, 80)}; ${error.message}`);
  }
}

// Load name and thumbnail of a clip known by its id only.
export async function loadSimilarClip() {
  const like = similarQuery();
  if (!like || !like.clip || like.isLoaded) return;
  const query = [{ kind: "clip", value: like.clip, signal: like.signal }];
  const { results } = await call("POST", collectionPath(currentName(), "search"), { query, limit: 1, include_query_clips: true });
  if (results[0] && results[0].clip_id === like.clip && similarQuery() === like) setSimilarClip(results[0], like.signal);
}
