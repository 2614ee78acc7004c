// Finding: what is looked for, and pages of what there is.

import { embedAgain, openAdding } from "./adding.js";
import { at, call } from "./api.js";
import { openClip } from "./clip.js";
import { askForName, chosenName, current, loadCollections } from "./collections.js";
import { $, el } from "./parts.js";
import { card, fail, loading, note, say } from "./results.js";

const RERANK = 20;
const LIMIT = 24;
let cursor = null;
let asked = null; // aborted when something else is asked for

const whole = (video) => ({ video, start: 0, end: video.duration, media_url: video.media_url, thumbnail_url: video.thumbnail_url });

async function showAll(more = false) {
  if (!chosenName()) {
    say("");
    note("Nothing here yet", "Make a collection, then add videos or pictures to it.",
      el("button", { type: "button", className: "strong", textContent: "New collection", onclick: askForName }));
    return;
  }
  const { signal } = begin();
  if (!more) loading();
  try {
    const query = new URLSearchParams({ limit: LIMIT, ...(more && cursor ? { cursor } : {}) });
    const page = await call("GET", `${at(chosenName(), "videos")}?${query}`, undefined, signal);
    const cards = page.videos.map((video) => card(whole(video), 0, openClip));
    if (more) $("results").append(...cards);
    else if (cards.length) $("results").replaceChildren(...cards);
    else note("This collection is empty", "Drop videos or pictures anywhere on this page, or choose some.",
      el("button", { type: "button", className: "strong", textContent: "Add videos", onclick: () => openAdding(chosenName()) }));
    cursor = page.next_cursor;
    $("more").hidden = !page.next_cursor;
    const { videos, clips, compatible } = current();
    if (!compatible) offerEmbedding();
    else say(videos ? `${videos} ${videos === 1 ? "video" : "videos"}, ${clips} ${clips === 1 ? "clip" : "clips"}. Describe what you are looking for.` : "");
  } catch (error) {
    fail(error, () => showAll());
  } finally {
    $("results").removeAttribute("aria-busy");
  }
}

function offerEmbedding() {
  say("The model that filled this collection is not loaded: it can be looked at, but not searched or added to. ", true);
  const button = el("button", { type: "button", className: "quiet", textContent: "Embed it again" });
  button.onclick = () => {
    button.disabled = true;
    embedAgain(chosenName(), added);
  };
  $("summary").append(button);
}

function begin() {
  if (asked) asked.abort();
  asked = new AbortController();
  return asked;
}

async function search() {
  const text = $("query").value.trim();
  remember(text);
  if (!text || !chosenName()) return showAll();
  const { signal } = begin();
  loading();
  say("Searching…");
  const began = performance.now();
  const body = { text, limit: LIMIT, rerank: $("rerank").checked ? RERANK : 0, group: $("group").checked ? "video" : "clip", hybrid: $("hybrid").checked };
  try {
    const { results } = await call("POST", at(chosenName(), "search"), body, signal);
    const took = Math.round(performance.now() - began);
    say(`${results.length} ${results.length === 1 ? "clip" : "clips"} in ${took} ms, best first`);
    $("results").replaceChildren(...results.map((clip, place) => card(clip, place + 1, openClip)));
    if (!results.length) note("Nothing to find", "This collection has no clips yet.");
  } catch (error) {
    if (error.code === "task_missing" && $("rerank").checked) {
      $("rerank").checked = false;
      $("rerank").disabled = true;
      return search();
    }
    fail(error, search);
  } finally {
    $("results").removeAttribute("aria-busy");
  }
}

function remember(text) {
  const query = new URLSearchParams();
  if (chosenName()) query.set("collection", chosenName());
  if (text) query.set("q", text);
  history.replaceState(null, "", query.size ? `?${query}` : "/");
}

export const show = () => ($("query").value.trim() ? search() : showAll());

// The same with collections as they are now.
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

export function prepareSearching() {
  $("search").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  $("query").addEventListener("search", () => {
    if (!$("query").value) search(); // the × of the field
  });
  $("rerank").onchange = $("hybrid").onchange = $("group").onchange = () => {
    if ($("query").value.trim()) search();
  };
  $("more").onclick = () => showAll(true);
}
