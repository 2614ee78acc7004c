// Finding: pages of what fits, or of all that there is when nothing is asked for.

import { openAddDialog } from "./add_dialog.js";
import { collectionPath, call } from "./api.js";
import { openClip } from "./clip_dialog.js";
import { openNewCollection, currentName, currentCollection, loadCollections } from "./collections.js";
import { addKnownFields, showFilterError, readRows } from "./filter_form.js";
import { setSimilarClip } from "./similar_query.js";
import { $, el } from "./dom.js";
import { counted, showError, hideLoading, showLoading, showMessage, resultCard, setSummary, showCards, videoCard } from "./results.js";
import { PAGE_SIZE, runSearch, loadSimilarClip, saveToAddress, showChips, readSearch } from "./search_state.js";

const NOUNS = { clip: ["clip"], event: ["moment"], video: ["video"] };
let page = { next: null, shown: 0 };
let pending = null;

function startRequest() {
  if (pending) pending.abort(); // nobody waits for it any more
  pending = new AbortController();
  return pending.signal;
}

export function showResults(more = false) {
  if (!currentName()) {
    showChips(search);
    showMessage("Nothing here yet", "Make a collection, then add videos or pictures to it.",
      el("button", { type: "button", className: "strong", textContent: "New collection", onclick: openNewCollection }));
    return null;
  }
  showChips(search);
  const criteria = readSearch();
  return criteria.isAsked ? showHits(criteria, more) : listVideos(criteria, more);
}

// What the form says, from its first page on.
export function search() {
  if (!readRows()) return null;
  saveToAddress();
  return showResults();
}

async function listVideos({ filter }, more) {
  const signal = startRequest();
  if (!more) showLoading();
  try {
    const query = new URLSearchParams({ limit: PAGE_SIZE, ...(filter ? { filter: JSON.stringify(filter) } : {}), ...(more ? { cursor: page.next } : {}) });
    const { videos, next_cursor } = await call("GET", `${collectionPath(currentName(), "videos")}?${query}`, undefined, signal);
    addKnownFields(videos);
    if (videos.length) showCards(videos.map((video) => videoCard(video, openClip)), more);
    else if (filter) showMessage("Nothing passes the filter", "No video of this collection has what it asks for.");
    else showMessage("This collection is empty", "Drop videos or pictures anywhere on this page, or choose some.",
      el("button", { type: "button", className: "strong", textContent: "Add videos", onclick: () => openAddDialog(currentName()) }));
    setPage(next_cursor, videos.length, more);
    const collection = currentCollection();
    if (!collection.model_loaded) offerReembedding();
    else if (!page.shown) return;
    else if (filter) setSummary(`${counted(page.shown, "video")}${next_cursor ? " and more pass" : page.shown === 1 ? " passes" : " pass"} the filter.`);
    else setSummary(`${counted(collection.videos, "video")}, ${counted(collection.clips, "clip")}. Describe what you are looking for.`);
  } catch (error) {
    handleError(error, () => showResults());
  } finally {
    if (!signal.aborted) hideLoading();
  }
}

async function showHits(criteria, more) {
  const signal = startRequest();
  if (!more) {
    showLoading();
    setSummary("Searching…");
  }
  const startedAt = performance.now();
  performance.clearResourceTimings(); // so that there is room for what is measured below
  loadSimilarClip().then(() => showChips(search)).catch(() => {}); // the search says what is wrong
  try {
    const { results, next_cursor, changed } = await runSearch(criteria, { cursor: more ? page.next : null, signal });
    const came = performance.now();
    addKnownFields(results.map((result) => result.video));
    showCards(results.map((clip, place) => resultCard(clip, (more ? page.shown : 0) + place + 1, openClip, findSimilar)), more);
    if (!more) measureFirst(came);
    setPage(next_cursor, results.length, more);
    const [singular, plural] = NOUNS[criteria.group];
    if (!page.shown) showMessage("Nothing found", criteria.filter ? "Nothing passes the filter." : "This collection has no clips yet.");
    else setSummary([`${counted(page.shown, singular, plural)} in ${Math.round(came - startedAt)} ms, best first`,
      changed ? "the collection has changed meanwhile: search again to see what was added" : ""].filter(Boolean).join("; "));
  } catch (error) {
    if (error.code === "task_missing" && $("rerank").checked) {
      $("rerank").checked = false;
      $("rerank").disabled = true;
      return search();
    }
    handleError(error, () => showResults());
  } finally {
    if (!signal.aborted) hideLoading();
  }
}

function setPage(next, count, more) {
  page = { next, shown: (more ? page.shown : 0) + count };
  $("more").hidden = !next;
}

function handleError(error, retry) {
  showError(error, retry);
  if (error.code === "invalid_filter") showFilterError(error.message);
}

// From the last byte of the answer to the frame that has the cards: what ``first-result`` measures.
function measureFirst(came) {
  requestAnimationFrame(() => setTimeout(() => {
    const answers = performance.getEntriesByType("resource").filter((entry) => entry.name.endsWith("/search"));
    const start = answers.length ? answers.at(-1).responseEnd : came;
    performance.clearMeasures("first-result");
    performance.measure("first-result", { start, end: performance.now() });
  }));
}

// What looks like this clip, whatever was asked for before; the filter stays.
export function findSimilar(clip) {
  $("query").value = "";
  setSimilarClip(clip);
  scrollTo({ top: 0 });
  $("query").focus({ preventScroll: true });
  search();
}

function offerReembedding() {
  setSummary("The model that filled this collection is not loaded: it can be looked at, but not searched or added to. ", true);
  const button = el("button", { type: "button", className: "quiet", textContent: "Embed it again" });
  button.onclick = async () => {
    button.disabled = true;
    try {
      const { reembed: embedAgain } = await import("./operations.js");
      embedAgain(currentName(), onVideosAdded);
    } catch (error) {
      setSummary(error.message, true);
    }
  };
  $("summary").append(button);
}

// What is shown, with collections as they are now.
export async function refresh() {
  try {
    await loadCollections();
    await showResults();
  } catch (error) {
    showError(error, refresh);
  }
}

// What was added to ``collection`` shows; the place in another one is not lost.
export async function onVideosAdded(collection) {
  await loadCollections();
  if (collection === currentName()) await showResults();
}

// Some videos, so that the filter can offer their fields.
export async function loadFilterFields() {
  if (!currentName()) return;
  const { videos } = await call("GET", `${collectionPath(currentName(), "videos")}?limit=${PAGE_SIZE}`).catch(() => ({ videos: [] }));
  addKnownFields(videos);
}

export function prepareSearch() {
  $("search").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  $("query").addEventListener("search", () => {
    if (!$("query").value) search(); // the × of the field
  });
  $("rerank").onchange = $("hybrid").onchange = $("group").onchange = () => {
    if (readSearch().isAsked) search();
  };
  $("more").onclick = () => showResults(true);
}
