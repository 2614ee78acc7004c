// What is looked for, as the form says it: as a request, in the address, and back.

import { noteSearch, searched } from "./address.js";
import { at, call } from "./api.js";
import { chosenName } from "./collections.js";
import { filter, filterChips, refuse, setFilter } from "./filtering.js";
import { forgetLikeness, likeClip, likeClipId, likeness, likenessChip } from "./likeness.js";
import { $ } from "./parts.js";

const RERANK = 20;
export const LIMIT = 24;
let noted = ""; // the search in the address, as the form has it

// {text, like, filter, rerank, hybrid, group}; ``isAsked`` where there is something to look for.
export function wanted() {
  const text = $("query").value.trim();
  return {
    text,
    like: likeness(),
    isAsked: Boolean(text || likeness()),
    filter: filter(),
    rerank: text && $("rerank").checked ? RERANK : 0, // the fusion model judges sentences
    hybrid: Boolean(text) && $("hybrid").checked,
    group: $("group").value,
  };
}

// A page of answers; the first one without ``cursor``.
export function find({ text, like, filter, rerank, hybrid, group }, { cursor, signal } = {}) {
  const options = { limit: LIMIT, rerank, hybrid, group, ...(filter ? { filter } : {}), ...(cursor ? { cursor } : {}) };
  const words = text ? [{ kind: "text", value: text }] : [];
  const path = at(chosenName(), "search");
  if (!like) return call("POST", path, { text, ...options }, signal);
  if (like.clip) return call("POST", path, { query: [...words, { kind: "clip", value: like.clip }], ...options }, signal);
  if (cursor) return call("POST", path, { query: [...words, { kind: "file" }], ...options }, signal);
  const form = new FormData();
  form.append("file", like.file);
  if (text) form.append("text", text);
  for (const [name, value] of Object.entries(options)) form.append(name, name === "filter" ? JSON.stringify(value) : value);
  return call("POST", path, form, signal);
}

export function showChips(search) {
  const chips = [likenessChip(() => {
    forgetLikeness();
    search();
  }), ...filterChips(search)].filter(Boolean);
  $("chips").replaceChildren(...chips);
  $("chips").hidden = !chips.length;
}

// A file cannot be in an address: a search with one is not found again there.
export function remember() {
  const { text, like, filter, group } = wanted();
  const query = new URLSearchParams();
  if (chosenName()) query.set("collection", chosenName());
  if (text) query.set("q", text);
  if (like && like.clip) query.set("like", like.clip);
  if (filter) query.set("filter", JSON.stringify(filter));
  if (group !== "clip") query.set("group", group);
  if ($("hybrid").checked) query.set("hybrid", "1");
  if (!$("rerank").checked && !$("rerank").disabled) query.set("rerank", "0");
  noted = query.size ? `?${query}` : "";
  noteSearch(noted);
}

// Whether somebody went back or forward to another search.
export const isElsewhere = () => searched() !== noted;

// The form as the address says; returns the collection that it names.
export function recall() {
  noted = searched();
  const query = new URLSearchParams(location.search);
  $("query").value = query.get("q") || "";
  $("group").value = query.get("group") || "clip";
  if ($("group").selectedIndex < 0) $("group").value = "clip";
  $("hybrid").checked = query.get("hybrid") === "1";
  $("rerank").checked = query.get("rerank") !== "0" && !$("rerank").disabled;
  if (query.get("like")) likeClipId(query.get("like"));
  else forgetLikeness();
  setFilter(null);
  if (query.get("filter")) recallFilter(query.get("filter"));
  return query.get("collection");
}

function recallFilter(text) {
  try {
    const json = JSON.parse(text);
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw new SyntaxError("an object was expected");
    setFilter(json);
  } catch (error) {
    refuse(`filter: ${text.slice(0, 80)}; ${error.message}`);
  }
}

// The name and picture of a clip that only its id is known of.
export async function nameLikeness() {
  const like = likeness();
  if (!like || !like.clip || like.thumbnail) return;
  const query = [{ kind: "clip", value: like.clip }];
  const { results } = await call("POST", at(chosenName(), "search"), { query, limit: 1, include_query_clips: true });
  if (results[0] && results[0].clip_id === like.clip && likeness() === like) likeClip(results[0]);
}
