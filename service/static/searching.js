// Finding: pages of what fits, or of all that there is when nothing is asked for.

import { openAdding } from "./adding.js";
import { at, call } from "./api.js";
import { openClip } from "./clip.js";
import { askForName, chosenName, current, loadCollections } from "./collections.js";
import { learnFields, refuse, takeRows } from "./filtering.js";
import { likeClip } from "./likeness.js";
import { $, el } from "./parts.js";
import { counted, fail, loaded, loading, note, resultCard, say, showCards, videoCard } from "./results.js";
import { LIMIT, find, nameLikeness, remember, showChips, wanted } from "./wanted.js";

const FOUND = { clip: ["clip"], event: ["moment"], video: ["video"] };
let page = { next: null, shown: 0 };
let asked = null;

function begin() {
  if (asked) asked.abort(); // nobody waits for it any more
  asked = new AbortController();
  return asked.signal;
}

export function show(more = false) {
  if (!chosenName()) {
    showChips(search);
    note("Nothing here yet", "Make a collection, then add videos or pictures to it.",
      el("button", { type: "button", className: "strong", textContent: "New collection", onclick: askForName }));
    return null;
  }
  showChips(search);
  const sought = wanted();
  return sought.isAsked ? showFound(sought, more) : showAll(sought, more);
}

// What the form says, from its first page on.
export function search() {
  if (!takeRows()) return null;
  remember();
  return show();
}

async function showAll({ filter }, more) {
  const signal = begin();
  if (!more) loading();
  try {
    const query = new URLSearchParams({ limit: LIMIT, ...(filter ? { filter: JSON.stringify(filter) } : {}), ...(more ? { cursor: page.next } : {}) });
    const { videos, next_cursor } = await call("GET", `${at(chosenName(), "videos")}?${query}`, undefined, signal);
    learnFields(videos);
    if (videos.length) showCards(videos.map((video) => videoCard(video, openClip)), more);
    else if (filter) note("Nothing passes the filter", "No video of this collection has what it asks for.");
    else note("This collection is empty", "Drop videos or pictures anywhere on this page, or choose some.",
      el("button", { type: "button", className: "strong", textContent: "Add videos", onclick: () => openAdding(chosenName()) }));
    turnTo(next_cursor, videos.length, more);
    const all = current();
    if (!all.model_loaded) offerEmbedding();
    else if (!page.shown) return;
    else if (filter) say(`${counted(page.shown, "video")}${next_cursor ? " and more pass" : page.shown === 1 ? " passes" : " pass"} the filter.`);
    else say(`${counted(all.videos, "video")}, ${counted(all.clips, "clip")}. Describe what you are looking for.`);
  } catch (error) {
    failed(error, () => show());
  } finally {
    if (!signal.aborted) loaded();
  }
}

async function showFound(sought, more) {
  const signal = begin();
  if (!more) {
    loading();
    say("Searching…");
  }
  const began = performance.now();
  performance.clearResourceTimings(); // so that there is room for what is measured below
  nameLikeness().then(() => showChips(search)).catch(() => {}); // the search says what is wrong
  try {
    const { results, next_cursor, changed } = await find(sought, { cursor: more ? page.next : null, signal });
    const came = performance.now();
    learnFields(results.map((result) => result.video));
    showCards(results.map((clip, place) => resultCard(clip, (more ? page.shown : 0) + place + 1, openClip, likeThis)), more);
    if (!more) measureFirst(came);
    turnTo(next_cursor, results.length, more);
    const [one, many] = FOUND[sought.group];
    if (!page.shown) note("Nothing found", sought.filter ? "Nothing passes the filter." : "This collection has no clips yet.");
    else say([`${counted(page.shown, one, many)} in ${Math.round(came - began)} ms, best first`,
      changed ? "the collection has changed meanwhile: search again to see what was added" : ""].filter(Boolean).join("; "));
  } catch (error) {
    if (error.code === "task_missing" && $("rerank").checked) {
      $("rerank").checked = false;
      $("rerank").disabled = true;
      return search();
    }
    failed(error, () => show());
  } finally {
    if (!signal.aborted) loaded();
  }
}

function turnTo(next, count, more) {
  page = { next, shown: (more ? page.shown : 0) + count };
  $("more").hidden = !next;
}

function failed(error, again) {
  fail(error, again);
  if (error.code === "invalid_filter") refuse(error.message);
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
export function likeThis(clip) {
  $("query").value = "";
  likeClip(clip);
  scrollTo({ top: 0 });
  $("query").focus({ preventScroll: true });
  search();
}

function offerEmbedding() {
  say("The model that filled this collection is not loaded: it can be looked at, but not searched or added to. ", true);
  const button = el("button", { type: "button", className: "quiet", textContent: "Embed it again" });
  button.onclick = async () => {
    button.disabled = true;
    try {
      const { embedAgain } = await import("./operations.js");
      embedAgain(chosenName(), added);
    } catch (error) {
      say(error.message, true);
    }
  };
  $("summary").append(button);
}

// What is shown, with collections as they are now.
export async function refresh() {
  try {
    await loadCollections();
    await show();
  } catch (error) {
    fail(error, refresh);
  }
}

// What was added to ``collection`` shows; the place in another one is not lost.
export async function added(collection) {
  await loadCollections();
  if (collection === chosenName()) await show();
}

// Some videos, so that the filter can offer their fields.
export async function meetVideos() {
  if (!chosenName()) return;
  const { videos } = await call("GET", `${at(chosenName(), "videos")}?limit=${LIMIT}`).catch(() => ({ videos: [] }));
  learnFields(videos);
}

export function prepareSearching() {
  $("search").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  $("query").addEventListener("search", () => {
    if (!$("query").value) search(); // the × of the field
  });
  $("rerank").onchange = $("hybrid").onchange = $("group").onchange = () => {
    if (wanted().isAsked) search();
  };
  $("more").onclick = () => show(true);
}
