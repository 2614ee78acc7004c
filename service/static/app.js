// The page: search, results, one clip in detail.

import { addFiles, embedAgain, openAdding, prepareAdding, showJobs } from "./adding.js";
import { at, call } from "./api.js";
import { answerBar, clock, el, preview, scoreBars, showLarge, span } from "./parts.js";

const $ = (id) => document.getElementById(id);
const RERANK = 20;
const LIMIT = 24;
const state = { collection: null, collections: [], cursor: null, clip: null, stopScreen: () => {}, asked: null };

// Collections

let haveLoaded;
const loaded = new Promise((resolve) => (haveLoaded = resolve));

async function loadCollections(wanted) {
  state.collections = (await call("GET", "/v1/collections")).collections;
  const names = state.collections.map((each) => each.name);
  state.collection = names.includes(wanted) ? wanted : names[0] || null;
  $("collections").replaceChildren(...state.collections.map((each) =>
    el("option", { value: each.name, textContent: `${each.name} (${each.videos})` })));
  $("collections").value = state.collection || "";
  $("collections").disabled = !names.length;
  $("upload").disabled = !names.length;
}

const current = () => state.collections.find((each) => each.name === state.collection);

async function loadModel() {
  const model = (await call("GET", "/v1/models")).models[0]; // the default
  if (model.state === "failed") throw new Error(`The model in ${model.folder} could not be loaded: ${model.error}`);
  const facts = {
    Version: model.version,
    "Can do": model.tasks.join(", "),
    "Looks at": model.streams.map((s) => `${s.frames} ${s.frames > 1 ? "frames" : "frame"} of ${s.width}×${s.height}`).join(" and "),
    "Trained on": model.training_data.join(", "),
    Licence: model.licence,
    Fingerprint: model.fingerprint.slice(0, 16),
    ...Object.fromEntries(Object.entries(model.metrics).map(([name, value]) => [name, String(value)])),
  };
  $("model").textContent = `Model: ${model.name}`;
  $("model").hidden = false;
  $("model-name").textContent = model.name;
  $("model-facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) =>
    [el("dt", { textContent: name }), el("dd", { textContent: value || "–" })]));
  $("model-card").textContent = model.model_card;
}

// What is on the screen

function say(text, isError = false) {
  $("summary").textContent = text;
  $("summary").classList.toggle("error", isError);
}

function note(title, text, ...actions) {
  $("results").replaceChildren(el("div", { className: "note" },
    el("h2", { textContent: title }), el("p", { textContent: text }), ...actions));
}

function fail(error, again) {
  if (error.name === "AbortError") return;
  say("");
  note("That did not work", error.message, el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: again }));
  $("results").firstChild.classList.add("failed");
  $("more").hidden = true;
}

function loading() {
  $("more").hidden = true;
  $("results").setAttribute("aria-busy", "true");
  $("results").replaceChildren(...Array.from({ length: 8 }, () => el("div", { className: "ghost" })));
}

function card(clip, rank) {
  const shown = preview(clip);
  if (rank) shown.screen.append(el("span", { className: "rank", textContent: rank }));
  shown.screen.append(el("span", { className: "time", textContent: rank ? span(clip.start, clip.end) : clip.end ? clock(clip.end) : "picture" }));
  const text = el("span", { className: "text" }, el("span", { className: "title", textContent: clip.video.title, title: clip.video.title }));
  if (clip.text) text.append(el("span", { className: "meta", textContent: clip.text.slice(0, 120), title: clip.text }));
  if (rank) text.append(scoreBars(clip));
  else text.append(el("span", { className: "meta", textContent: describe(clip.video) }));
  const label = rank ? `${rank}. ${clip.video.title}, ${span(clip.start, clip.end)}` : clip.video.title;
  return el("button", {
    type: "button", className: "card", "aria-label": label,
    onclick: () => openClip(clip), onpointerenter: shown.play, onpointerleave: shown.rest, onfocus: shown.play, onblur: shown.rest,
  }, shown.screen, text);
}

function describe(video) {
  const facts = Object.entries(video.metadata).slice(0, 3).map(([key, value]) => `${key}: ${value}`);
  return [`${video.width}×${video.height}`, ...facts].join(" · ");
}

const whole = (video) => ({ video, start: 0, end: video.duration, media_url: video.media_url, thumbnail_url: video.thumbnail_url });

async function showAll(more = false) {
  if (!state.collection) {
    say("");
    note("Nothing here yet", "Make a collection, then add videos or pictures to it.",
      el("button", { type: "button", className: "strong", textContent: "New collection", onclick: askName }));
    return;
  }
  const asked = begin();
  if (!more) loading();
  try {
    const query = new URLSearchParams({ limit: LIMIT, ...(more && state.cursor ? { cursor: state.cursor } : {}) });
    const page = await call("GET", `${at(state.collection, "videos")}?${query}`, undefined, asked.signal);
    const cards = page.videos.map((video) => card(whole(video)));
    if (more) $("results").append(...cards);
    else if (cards.length) $("results").replaceChildren(...cards);
    else note("This collection is empty", "Drop videos or pictures anywhere on this page, or choose some.",
      el("button", { type: "button", className: "strong", textContent: "Add videos", onclick: () => openAdding(state.collection) }));
    state.cursor = page.next_cursor;
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
    embedAgain(state.collection, added);
  };
  $("summary").append(button);
}

function begin() {
  if (state.asked) state.asked.abort();
  state.asked = new AbortController();
  return state.asked;
}

async function search() {
  const text = $("query").value.trim();
  remember(text);
  if (!text || !state.collection) return showAll();
  const asked = begin();
  loading();
  say("Searching…");
  const began = performance.now();
  const body = { text, limit: LIMIT, rerank: $("rerank").checked ? RERANK : 0, group: $("group").checked ? "video" : "clip", hybrid: $("hybrid").checked };
  try {
    const { results } = await call("POST", at(state.collection, "search"), body, asked.signal);
    const took = Math.round(performance.now() - began);
    say(`${results.length} ${results.length === 1 ? "clip" : "clips"} in ${took} ms, best first`);
    $("results").replaceChildren(...results.map((clip, place) => card(clip, place + 1)));
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
  if (state.collection) query.set("collection", state.collection);
  if (text) query.set("q", text);
  history.replaceState(null, "", query.size ? `?${query}` : "/");
}

// One clip

function openClip(clip) {
  state.clip = clip;
  $("clip-title").textContent = clip.video.title;
  const facts = Object.entries(clip.video.metadata).map(([key, value]) => `${key}: ${value}`);
  $("clip-facts").textContent = [span(clip.start, clip.end), `${clip.video.width}×${clip.video.height}`, ...facts].join(" · ");
  $("clip-text").textContent = clip.text || "";
  $("clip-text").hidden = !clip.text;
  $("scores").replaceChildren();
  $("answers").replaceChildren();
  const isPart = clip.end - clip.start < clip.video.duration - 0.01;
  $("clip-part").querySelectorAll("label").forEach((label) => (label.hidden = !isPart));
  $("clip-part").querySelector("[value=clip]").checked = true;
  if (!$("captions").value && $("query").value.trim()) $("captions").value = `${$("query").value.trim()}\n`;
  $("clip").showModal();
  if (matchMedia("(pointer: fine)").matches) $("captions").focus(); // on a phone it would raise the keyboard
  state.stopScreen = showLarge($("clip-screen"), clip);
}

function subject() {
  const { clip } = state;
  const asWhole = $("clip-part").querySelector("[value=video]").checked || !clip.end;
  return { collection: state.collection, video_id: clip.video.id, ...(asWhole ? {} : { start: clip.start, end: clip.end }) };
}

async function working(form, out, work) {
  const button = form.querySelector("button.strong");
  button.disabled = true;
  out.replaceChildren(el("p", { className: "facts", textContent: "Looking…" }));
  try {
    out.replaceChildren(...(await work()));
  } catch (error) {
    out.replaceChildren(el("p", { className: "error", textContent: error.message }));
  } finally {
    button.disabled = false;
  }
}

function verdict(score, isBest) {
  return el("div", { className: isBest ? "verdict best" : "verdict" },
    el("p", { textContent: score.caption }), isBest ? el("small", { textContent: "fits best" }) : null, scoreBars(score));
}

$("score").onsubmit = (event) => {
  event.preventDefault();
  const captions = $("captions").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!captions.length) return $("captions").focus();
  working($("score"), $("scores"), async () => {
    const { scores } = await call("POST", "/v1/caption-scores", { ...subject(), captions });
    const order = scores.slice().sort((a, b) => (b.fused ?? b.similarity) - (a.fused ?? a.similarity));
    return order.map((score, place) => verdict(score, place === 0 && order.length > 1));
  });
};

$("question-form").onsubmit = (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return $("question").focus();
  working($("question-form"), $("answers"), async () => {
    const { answers } = await call("POST", "/v1/answers", { ...subject(), question, top: 5 });
    return answers.map(answerBar);
  });
};

$("clip-delete").onclick = async () => {
  const { video } = state.clip;
  if (!confirm(`Delete “${video.title}” from ${state.collection}?`)) return;
  try {
    await call("DELETE", at(state.collection, "videos", video.id));
    $("clip").close();
    await refresh();
  } catch (error) {
    $("scores").replaceChildren(el("p", { className: "error", textContent: error.message }));
  }
};

$("clip").addEventListener("close", () => state.stopScreen());
$("clip-close").onclick = () => $("clip").close();
$("clip").addEventListener("click", (event) => {
  if (event.target === $("clip")) $("clip").close(); // beside the panel
});

// What is added

async function added(collection) {
  if (collection === state.collection) await refresh();
  else await loadCollections(state.collection);
}

prepareAdding(async () => (await loaded, state.collection), added);

const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = !state.collection;
});
addEventListener("dragleave", (event) => event.relatedTarget === null && ($("drop").hidden = true));
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  if (state.collection) addFiles(state.collection, [...event.dataTransfer.files], added);
});

// A new collection

function askName() {
  $("name-error").textContent = "";
  $("name-dialog").showModal();
  $("name").focus();
}

$("new-collection").onclick = askName;
$("name-cancel").onclick = () => $("name-dialog").close();
$("name-form").onsubmit = async (event) => {
  event.preventDefault();
  try {
    const made = await call("POST", "/v1/collections", { name: $("name").value.trim() });
    $("name-dialog").close();
    $("name").value = "";
    $("query").value = "";
    await loadCollections(made.name);
    remember("");
    await showAll();
  } catch (error) {
    $("name-error").textContent = error.message;
  }
};

// The whole

async function refresh() {
  await loadCollections(state.collection);
  await ($("query").value.trim() ? search() : showAll());
}

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
$("model").onclick = () => $("model-dialog").showModal();
$("collections").onchange = () => {
  state.collection = $("collections").value;
  refresh();
  followJobs();
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    $("query").select();
  } else if (event.key.startsWith("Arrow") && event.target.matches(".card")) {
    moveFocus(event);
  } else if (event.key === "ArrowDown" && event.target === $("query")) {
    document.querySelector(".card")?.focus();
  }
});

function moveFocus(event) {
  const cards = [...document.querySelectorAll(".card")];
  const columns = getComputedStyle($("results")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = cards[cards.indexOf(event.target) + step];
  event.preventDefault();
  if (next) next.focus();
  else if (event.key === "ArrowUp") $("query").focus();
}

function followJobs() {
  if (state.collection) showJobs(state.collection, added).catch(() => {}); // what is shown besides says what is wrong
}

async function start() {
  const query = new URLSearchParams(location.search);
  $("query").value = query.get("q") || "";
  loading();
  try {
    await loadCollections(query.get("collection"));
    haveLoaded();
    loadModel().catch(() => {});
    followJobs();
    await ($("query").value ? search() : showAll());
  } catch (error) {
    fail(error, start);
  }
}

start();
