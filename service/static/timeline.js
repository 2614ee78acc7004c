// The timeline of a video: all its clips as one drawn bar, however many there are, and the moments that fit what is looked for.

import { $, el, leading, span, spoken } from "./parts.js";

const BEST = 6; // moments that are listed
const LEAP = 10; // clips, by PageUp and PageDown
const PEEK_AFTER = 60; // milliseconds

let clips = [];
let duration = 0;
let moments = new Map(); // id of a clip -> its scores
let chosen = -1; // place among the clips
let played = 0; // seconds
let peeking = null;
let pick = () => {};

// ``onPick(clip, told)`` is called with the clip that was chosen by pointer or keys, and what is to be told of it to those who
// hear the page.
export function showTimeline(spans, seconds, onPick) {
  [clips, duration, pick] = [spans, seconds, onPick];
  [moments, chosen, played] = [new Map(), -1, 0];
  $("moments").replaceChildren();
  $("timeline").hidden = clips.length < 2;
  $("track").setAttribute("aria-valuemax", clips.length);
  tell();
  redraw();
}

export function hideTimeline() {
  showTimeline([], 0, () => {});
}

export const clipPlayed = () => clips[placeAt(played)];

// Where the film is.
export function follow(seconds) {
  played = seconds;
  draw();
}

export function choose(start) {
  chosen = placeAt(start);
  tell();
  draw();
}

// ``found``: results of a search among these clips, best first; null while it goes on.
export function showMoments(found, text) {
  moments = new Map((found || []).map((result) => [result.clip_id, result]));
  $("moments-about").textContent = text;
  $("moments").replaceChildren(...listed(found || []).map(({ first, end, score }) =>
    el("li", {}, el("button", { type: "button", className: "moment", onclick: () => take(placeAt(first.start)) },
      span(first.start, end), el("small", { textContent: score.text })))));
  tell();
  redraw();
}

// Clips that touch as one, with the score of the best of them, and none that was judged and fits much less than the first.
function listed(found) {
  if (!found.length) return [];
  const { kind, value } = leading(found[0]);
  const fits = (score) => score.kind === kind && (kind !== "fused" || score.value >= value / 2);
  const runs = [];
  for (const clip of found.filter((each) => fits(leading(each))).sort((a, b) => a.start - b.start)) {
    const score = leading(clip);
    const last = runs.at(-1);
    if (!last || clip.start > last.end + 0.001) runs.push({ first: clip, end: clip.end, score });
    else {
      last.end = Math.max(last.end, clip.end);
      if (score.value > last.score.value) last.score = score;
    }
  }
  return runs.sort((a, b) => b.score.value - a.score.value).slice(0, BEST);
}

// Keys: from clip to clip, also while the timeline has not the focus. Whether the key was one of these.
export function moveBy(key) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 1, ArrowDown: -1, PageUp: -LEAP, PageDown: LEAP, Home: -clips.length, End: clips.length };
  if (clips.length < 2 || !(key in steps)) return false;
  const from = chosen < 0 ? placeAt(played) : chosen;
  take(Math.max(0, Math.min(clips.length - 1, from + steps[key])));
  return true;
}

function take(place) {
  chosen = place;
  tell();
  draw();
  pick(clips[place], document.activeElement === $("track") ? "" : spokenOf(place)); // a slider tells its value by itself
}

// The last clip that has begun at that second; clips may overlap.
function placeAt(seconds) {
  let [low, high] = [0, clips.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (clips[middle].start <= seconds + 0.001) low = middle;
    else high = middle - 1;
  }
  return low;
}

function describe(place, to, score) {
  const clip = clips[place];
  const found = moments.get(clip.id);
  return [`clip ${place + 1} of ${clips.length}`, span(clip.start, clip.end, to), found ? score(found) : "", clip.text.slice(0, 100)].filter(Boolean).join(", ");
}

const spokenOf = (place) => describe(place, "to", spoken);

function tell() {
  const place = Math.max(0, chosen);
  $("track").setAttribute("aria-valuenow", place + 1);
  $("track").setAttribute("aria-valuetext", clips.length ? spokenOf(place) : "");
}

// Drawing: one canvas. What stays while the film plays is drawn once and copied.

const still = document.createElement("canvas");
let isStale = true;
let waiting = false;

function redraw() {
  isStale = true;
  draw();
}

function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paint();
  });
}

function paint() {
  const canvas = $("track-canvas");
  const { width, height } = canvas.getBoundingClientRect();
  if (!width || !clips.length) return;
  const scale = devicePixelRatio || 1;
  // A canvas knows no variables, so style.css gives it the three colors as properties of its own.
  const color = (name) => getComputedStyle(canvas).getPropertyValue(name);
  if (isStale) {
    isStale = false;
    for (const each of [canvas, still]) [each.width, each.height] = [Math.round(width * scale), Math.round(height * scale)];
    const context = still.getContext("2d");
    context.scale(scale, scale);
    paintClips(context, width, height, color("color"), color("outline-color"));
  }
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(still, 0, 0);
  context.scale(scale, scale);
  context.fillStyle = color("border-top-color");
  const x = (seconds) => (seconds / duration) * width;
  if (chosen >= 0) {
    const left = x(clips[chosen].start);
    context.fillRect(Math.min(left, width - 3), height - 3, Math.max(3, x(clips[chosen].end) - left), 3);
  }
  context.fillRect(Math.min(width - 2, x(played)), 0, 2, height);
}

function paintClips(context, width, height, quiet, strong) {
  const low = height * 0.55;
  const x = (seconds) => (seconds / duration) * width;
  const box = (clip, top) => {
    const [left, right] = [x(clip.start), x(clip.end)];
    context.fillRect(left, top, Math.max(1, right - left - (right - left > 4 ? 1 : 0)), height - top);
  };
  context.fillStyle = quiet;
  if (width / clips.length < 4) context.fillRect(0, low, width, height - low); // where clips are narrow they are one band
  else clips.forEach((clip) => box(clip, low));
  context.fillStyle = strong;
  const share = strengths();
  for (const clip of clips) {
    if (!share.has(clip.id)) continue;
    context.globalAlpha = share.get(clip.id);
    box(clip, low * (1 - share.get(clip.id)));
  }
}

// How strongly each moment is drawn, 0 to 1: fused as it is, similarity by its place between the least and the most.
function strengths() {
  const scores = [...moments].map(([id, found]) => [id, leading(found)]);
  const cosines = scores.filter(([, { kind }]) => kind === "similarity").map(([, { value }]) => value);
  const [least, most] = [Math.min(...cosines), Math.max(...cosines)];
  const isJudged = cosines.length < scores.length;
  return new Map(scores.map(([id, { kind, value }]) =>
    [id, kind === "similarity" ? (isJudged || most <= least ? 0.2 : 0.2 + (0.8 * (value - least)) / (most - least)) : value]));
}

// A look at the clip below the pointer

function peek(event) {
  const { left, width } = $("track").getBoundingClientRect();
  const place = placeAt(((event.clientX - left) / width) * duration);
  peekAt(place);
}

function peekAt(place) {
  clearTimeout(peeking);
  peeking = setTimeout(() => {
    const clip = clips[place];
    if (!clip) return;
    $("peek-image").src = clip.thumbnail_url;
    $("peek-text").textContent = describe(place, "–", (found) => leading(found).text);
    const middle = ((clip.start + clip.end) / 2 / duration) * 100;
    $("peek").style.setProperty("--at", `${Math.max(0, Math.min(100, middle))}%`);
    $("peek").hidden = false;
  }, PEEK_AFTER);
}

function rest() {
  clearTimeout(peeking);
  $("peek").hidden = true;
}

export function prepareTimeline() {
  $("track").onclick = (event) => {
    const { left, width } = $("track").getBoundingClientRect();
    if (clips.length) take(placeAt(((event.clientX - left) / width) * duration));
  };
  $("track").onpointermove = peek;
  $("track").onpointerleave = rest;
  $("track").onfocus = () => $("track").matches(":focus-visible") && peekAt(Math.max(0, chosen));
  $("track").onblur = rest;
  $("track").onkeydown = (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (clips.length) take(Math.max(0, chosen));
    }
  };
  new ResizeObserver(redraw).observe($("track-canvas"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
