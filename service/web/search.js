// Search and the list of videos, page by page.

import { openAddDialog } from "./add_dialog.js";
import { call, collectionPath, reportUnreachable } from "./api.js";
import { currentCollection, currentName, loadCollections, openNewCollection } from "./collections.js";
import { prepareConditions } from "./conditions.js";
import { $, el } from "./dom.js";
import { showFacets } from "./facets.js";
import { readRows, showFilterError } from "./filter_form.js";
import { formatCount, formatDuration } from "./format.js";
import { hideLoading, setSummary, showCards, showError, showLoading, showMessage, showWarnings, videoCard } from "./results.js";
import { disableReranking, loadSimilarClip, PAGE_SIZE, readSearch, runSearch, saveToAddress, setReranking, showChips, showMinRelevance, showReranking } from "./search_state.js";
import { showSignals } from "./signals.js";
import { setSimilarClip, similarQuery } from "./similar_query.js";
import { createToast } from "./toasts.js";

let page = { next: null, shown: 0 };
let minCount = 1; // results to show after a refresh, so that it keeps the pages of "Show more"
let pending = null;
let submitted = null; // criteria of the results; the form may have others

export function startRequest() {
  if (pending) pending.abort(); // only the newest request counts
  pending = new AbortController();
  return pending.signal;
}

// ``seconds``: where it plays from, by default its start.
const openClip = (clip, seconds) => import("./clip_dialog.js").catch(reportUnreachable).then((dialog) => dialog.openClip(clip, seconds), (error) => createToast(clip.video.title).fail(error.message));

// Show results from the first page on, at least ``count`` of them if there are as many; by default of the form.
export function showResults(count = 1, criteria = null) {
  minCount = count;
  showChips(search);
  showReranking();
  showSignals(repeat);
  if (!currentName()) {
    showMessage("No collections", "Create a collection, then add videos or images to it.",
      el("button", { type: "button", className: "strong", textContent: "New collection", onclick: openNewCollection }));
    return null;
  }
  submitted = criteria || readSearch();
  return submitted.hasQuery ? showHits(submitted, { count }) : listVideos(submitted, { count });
}

function showMore() {
  minCount = page.shown + 1;
  return submitted.hasQuery ? showHits(submitted, { more: true }) : listVideos(submitted, { more: true });
}

// Search by the form, from the first page on.
export function search() {
  if (!readRows()) return null;
  saveToAddress();
  return showResults();
}

const repeat = () => readSearch().hasQuery && search();

// Fetch pages from ``cursor`` on, until there are ``count`` items.
async function fetchPages(fetchPage, cursor, count) {
  const result = await fetchPage(cursor);
  while (result.next && result.items.length < count) {
    const { items, next } = await fetchPage(result.next);
    result.items.push(...items);
    result.next = next;
  }
  return result;
}

async function listVideos({ filter }, { more = false, count = 1 }) {
  const signal = startRequest();
  if (!more) showLoading();
  try {
    const { items: videos, next } = await fetchPages(async (cursor) => {
      const query = new URLSearchParams({ limit: PAGE_SIZE, ...(filter ? { filter: JSON.stringify(filter) } : {}), ...(cursor ? { cursor } : {}) });
      const response = await call("GET", `${collectionPath(currentName(), "videos")}?${query}`, undefined, signal);
      return { items: response.videos, next: response.next_cursor };
    }, more ? page.next : null, count);
    if (videos.length) showCards(videos.map((video) => videoCard(video, openClip)), more);
    else if (filter) showMessage("No videos match the filter", "Change or clear the filter to see more.");
    else showMessage("This collection is empty", "Drop videos or images anywhere on this page, or choose files.",
      el("button", { type: "button", className: "strong", textContent: "Add videos", onclick: () => openAddDialog(currentName()) }));
    setPage(next, videos.length, more);
    showFilters();
    const collection = currentCollection();
    if (!collection.model_loaded) offerReembedding();
    else if (!page.shown) return;
    else if (filter) setSummary(`${formatCount(page.shown, "video")}${next ? " and more match" : page.shown === 1 ? " matches" : " match"} the filter.`);
    else setSummary(`${formatCount(collection.videos, "video")}, ${formatCount(collection.clips, "clip")}. Describe what you are looking for.`);
  } catch (error) {
    handleError(error);
  } finally {
    if (!signal.aborted) hideLoading();
  }
}

async function showHits(criteria, { more = false, count = 1 }) {
  const signal = startRequest();
  if (!more) {
    showLoading();
    setSummary("Searching…");
  }
  const startedAt = performance.now();
  loadSimilarClip().then(() => showChips(search)).catch(() => {}); // the search itself reports the error
  try {
    const [{ resultCard }, { items: results, next, changed, warnings }] = await Promise.all([import("./result_card.js").catch(reportUnreachable), fetchPages(async (cursor) => {
      const response = await runSearch(criteria, { cursor, signal });
      return { items: response.results, next: response.next_cursor, changed: response.changed, warnings: response.warnings };
    }, more ? page.next : null, count)]);
    const elapsed = performance.now() - startedAt; // milliseconds
    const time = elapsed < 1000 ? `${Math.round(elapsed)} ms` : formatDuration(elapsed / 1000);
    showCards(results.map((clip, index) => resultCard(clip, (more ? page.shown : 0) + index + 1, openClip, findSimilar)), more);
    setPage(next, results.length, more);
    if (!page.shown) showMessage("No results", describeNoResults(criteria));
    else setSummary([describeCount(criteria, time), changed ? "the collection has changed; search again to see new videos" : ""].filter(Boolean).join("; "));
    if (!more) showWarnings(warnings);
    if (page.shown) showMinRelevance(results.some(({ relevance }) => relevance !== null));
    showFilters();
  } catch (error) {
    if (error.code === "task_missing" && error.message.startsWith("rerank:") && $("rerank").checked) {
      disableReranking();
      return search();
    }
    if (criteria.minRelevance && error.message.startsWith("min_relevance:")) { // the model estimates no probability for this query
      showMinRelevance(false);
      return showResults();
    }
    handleError(error);
  } finally {
    if (!signal.aborted) hideLoading();
  }
}

// "Best 24 of 85 clips"; the total is known only if neither filter nor minimum leaves any out.
function describeCount({ filter, group, minRelevance }, time) {
  const total = { clip: currentCollection().clips, video: currentCollection().videos }[group];
  const count = formatCount(page.shown, group);
  if (!page.next) return `${count} in ${time}, best first`;
  return `Best ${filter || minRelevance || !total ? count : `${page.shown.toLocaleString("en")} of ${formatCount(total, group)}`} in ${time}`;
}

function describeNoResults({ text, filter, minRelevance, signals }) {
  if (!currentCollection().clips) return "This collection has no clips yet.";
  if (signals) return "Nothing matches by these signals alone. Switch on more of them below the search box.";
  if (minRelevance) return `No result fits with at least ${Math.round(minRelevance * 100)}%. Lower the minimum under “Options” to see the nearest.`;
  if (text.includes('"')) return `No clip${filter ? " that matches the filter" : ""} has these words exactly. Remove the quotation marks to search by meaning.`;
  return `No clip matches${filter ? " the filter" : ""}.`;
}

// After the results, which must not wait for the facets; they show conditions in place of chips.
const showFilters = () => showFacets().then(() => (showChips(search), showSignals(repeat)));

function setPage(next, count, more) {
  page = { next, shown: (more ? page.shown : 0) + count };
  $("more").hidden = !next;
}

function handleError(error) {
  showError(error, () => reload()); // also collections: this one may be gone
  if (error.code === "invalid_filter") showFilterError(error.message);
}

// Find clips similar to this one, or to its sound with the signal "audio"; the filter stays.
export function findSimilar(clip, signal) {
  $("query").value = "";
  setSimilarClip(clip, signal);
  scrollTo({ top: 0 });
  $("query").focus({ preventScroll: true });
  search();
}

function offerReembedding() {
  setSummary("The model of this collection is not loaded. You can browse its videos, but not search or add any. ", true);
  const button = el("button", { type: "button", className: "quiet", textContent: "Re-embed with the default model" });
  button.onclick = async () => {
    button.disabled = true;
    try {
      const { reembed } = await import("./operations.js");
      reembed(currentName(), onVideosAdded);
    } catch (error) {
      setSummary(error.message, true);
    }
  };
  $("summary").append(button);
}

export async function reload(count = 1, criteria = null) {
  try {
    await loadCollections();
    await showResults(count, criteria);
  } catch (error) {
    showError(error, () => reload(count, criteria));
  }
}

// Reload what is shown, with all its pages.
export const refresh = () => reload(minCount, submitted);

// Refresh after videos were added to ``collection``.
export async function onVideosAdded(collection) {
  await loadCollections();
  if (collection === currentName()) await showResults(minCount, submitted);
}

export function prepareSearch() {
  $("search").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  $("query").oninput = () => similarQuery() && showMinRelevance(true); // with a text, the search may be reranked
  $("query").addEventListener("search", () => {
    if (!$("query").value) search(); // the clear button of the field
  });
  $("rerank").onchange = () => {
    setReranking($("rerank").checked);
    repeat();
  };
  $("refine").onchange = $("group").onchange = repeat;
  $("min-relevance").oninput = () => showMinRelevance();
  $("min-relevance").onchange = repeat;
  $("options-open").onclick = () => {
    $("search-options").hidden = !$("search-options").hidden;
    $("options-open").setAttribute("aria-expanded", String(!$("search-options").hidden));
  };
  prepareConditions(search);
  $("more").onclick = showMore;
}
