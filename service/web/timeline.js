// The timeline of a video: its clips on a canvas, and those that match the search.

import { $, describeFit, el, fitOf, formatSpan, formatTime, isSound, thumbnailAt } from "./dom.js";
import { highlight, timedMatches } from "./matches.js";
import { signalName } from "./signals.js";

const MAX_CLIPS = 6; // listed matching clips
const MAX_MATCHES = 8; // listed matches of words
const MARKER_REACH = 8; // pixels around a marker that belong to it
const PAGE_STEP = 10; // clips per PageUp and PageDown
const PREVIEW_DELAY = 60; // milliseconds

let clips = [];
let duration = 0;
let hasPictures = true;
let results = new Map(); // of the search within this video, by clip id
let matches = []; // of words, by time
let selected = -1; // index of a clip
let playhead = 0; // seconds
let previewTimer = null;
let onSelectClip = () => {};

// ``onSelectClip(clip, announcement, match)`` is called when a clip, or a match in it, is selected by pointer or keys; ``announcement``
// describes it for screen readers.
export function showTimeline(spans, video, onPick) {
  [clips, duration, hasPictures, onSelectClip] = [spans, video.duration, !isSound({ video }), onPick];
  [results, matches, selected, playhead] = [new Map(), [], -1, 0];
  $("best-clips").replaceChildren();
  $("matches").replaceChildren();
  $("matches-about").hidden = true;
  $("timeline").hidden = clips.length < 2;
  $("track").setAttribute("aria-valuemax", clips.length);
  updateSlider();
  redraw();
}

export function hideTimeline() {
  showTimeline([], { duration: 0 }, () => {});
}

export const clipsOfVideo = () => clips;

export const clipAtPlayhead = () => clips[clipIndexAt(playhead)];

// Set the current position, in seconds.
export function setPlayhead(seconds) {
  playhead = seconds;
  draw();
}

export function selectAt(start) {
  selected = clipIndexAt(start);
  updateSlider();
  draw();
}

// ``hits``: search results within this video, best first; none while searching.
export function showMatchingClips(hits, text) {
  results = new Map(hits.map((result) => [result.clip_id, result]));
  matches = timedMatches(hits);
  $("timeline").hidden = clips.length < 2 && !matches.length;
  $("matches-about").hidden = !matches.length;
  $("matches").replaceChildren(...listedMatches().map((match) =>
    el("li", {}, el("button", { type: "button", className: "time-button", onclick: () => selectMatch(match) },
      formatTime(match.start), el("bdi", {}, ...highlight(match.text, [match.text])), el("small", { textContent: signalName(match.signal) })))));
  $("best-clips-about").textContent = text;
  $("best-clips").replaceChildren(...mergeAdjacent(clips.length < 2 ? [] : hits).map(({ first, end, score }) =>
    el("li", {}, el("button", { type: "button", className: "time-button", onclick: () => selectClip(clipIndexAt(first.start)) },
      formatSpan(first.start, end), el("small", { textContent: score.text })))));
  updateSlider();
  redraw();
}

// The first matches of the best results, by time.
function listedMatches() {
  const ranks = [...results.keys()];
  const best = matches.toSorted((a, b) => ranks.indexOf(a.clipId) - ranks.indexOf(b.clipId)).slice(0, MAX_MATCHES);
  return matches.filter((match) => best.includes(match));
}

// The scores of a clip; undefined if it does not match.
export const scoresOf = (clipId) => results.get(clipId);

// Merge adjacent clips, with their best score; drop clips with less than half of the top probability.
function mergeAdjacent(hits) {
  if (!hits.length) return [];
  const top = fitOf(hits[0]);
  const isListed = (score) => score.isProbability === top.isProbability && (!top.isProbability || score.value >= top.value / 2);
  const runs = [];
  for (const clip of hits.filter((item) => isListed(fitOf(item))).sort((a, b) => a.start - b.start)) {
    const score = fitOf(clip);
    const last = runs.at(-1);
    if (!last || clip.start > last.end + 0.001) runs.push({ first: clip, end: clip.end, score });
    else {
      last.end = Math.max(last.end, clip.end);
      if (score.value > last.score.value) last.score = score;
    }
  }
  return runs.sort((a, b) => b.score.value - a.score.value).slice(0, MAX_CLIPS);
}

// Move between clips by keys, wherever the focus is. Returns whether the key was handled.
export function handleKey(key) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 1, ArrowDown: -1, PageUp: -PAGE_STEP, PageDown: PAGE_STEP, Home: -clips.length, End: clips.length };
  if (clips.length < 2 || !(key in steps)) return false;
  const start = selected < 0 ? clipIndexAt(playhead) : selected;
  selectClip(Math.max(0, Math.min(clips.length - 1, start + steps[key])));
  return true;
}

const selectMatch = (match) => selectClip(Math.max(0, clips.findIndex(({ id }) => id === match.clipId)), match);

function selectClip(index, match) {
  selected = index;
  updateSlider();
  draw();
  onSelectClip(clips[index], document.activeElement === $("track") ? "" : spokenClip(index), match); // the slider announces its own value
}

// Index of the last clip that starts at or before this second; clips may overlap.
function clipIndexAt(seconds) {
  let [low, high] = [0, clips.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (clips[middle].start <= seconds + 0.001) low = middle;
    else high = middle - 1;
  }
  return low;
}

function describeClip(index, to, score) {
  const clip = clips[index];
  const result = results.get(clip.id);
  return [`clip ${index + 1} of ${clips.length}`, formatSpan(clip.start, clip.end, to), result ? score(result) : "", clip.text.slice(0, 100)].filter(Boolean).join(", ");
}

const spokenClip = (index) => describeClip(index, "to", describeFit);

function updateSlider() {
  const index = Math.max(0, selected);
  $("track").setAttribute("aria-valuenow", index + 1);
  $("track").setAttribute("aria-valuetext", clips.length ? spokenClip(index) : "");
}

// Drawing. What does not change during playback is drawn once and copied.

const background = document.createElement("canvas");
let isStale = true;
let isScheduled = false;

function redraw() {
  isStale = true;
  draw();
}

function draw() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    paintTimeline();
  });
}

function paintTimeline() {
  const canvas = $("track-canvas");
  const { width, height } = canvas.getBoundingClientRect();
  if (!width || !clips.length) return;
  const scale = devicePixelRatio || 1;
  // A canvas cannot read CSS variables, so style.css passes five colors as its properties.
  const color = (name) => getComputedStyle(canvas).getPropertyValue(name);
  if (isStale) {
    isStale = false;
    for (const item of [canvas, background]) [item.width, item.height] = [Math.round(width * scale), Math.round(height * scale)];
    const context = background.getContext("2d");
    context.scale(scale, scale);
    paintClips(context, width, height, color("color"), color("outline-color"));
  }
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(background, 0, 0);
  context.scale(scale, scale);
  context.fillStyle = color("border-top-color");
  const x = (seconds) => (seconds / duration) * width;
  if (selected >= 0) {
    const left = x(clips[selected].start);
    context.fillRect(Math.min(left, width - 3), height - 3, Math.max(3, x(clips[selected].end) - left), 3);
  }
  context.fillRect(Math.min(width - 2, x(playhead)), 0, 2, height);
  for (const { start } of matches) paintMarker(context, x(start), height, color("background-color"), color("caret-color"));
}

// A pin that points at the second of a match.
function paintMarker(context, x, height, outlineColor, fillColor) {
  for (const [fill, border] of [[outlineColor, 1.5], [fillColor, 0]]) {
    context.fillStyle = fill;
    context.fillRect(x - 1 - border, 0, 2 + 2 * border, height);
    context.beginPath();
    context.arc(x, 6, 4.5 + border, 0, 2 * Math.PI);
    context.fill();
  }
}

function paintClips(context, width, height, baseColor, matchColor) {
  const low = height * 0.55;
  const x = (seconds) => (seconds / duration) * width;
  const box = (clip, top) => {
    const [left, right] = [x(clip.start), x(clip.end)];
    context.fillRect(left, top, Math.max(1, right - left - (right - left > 4 ? 1 : 0)), height - top);
  };
  context.fillStyle = baseColor;
  if (width / clips.length < 4) context.fillRect(0, low, width, height - low); // narrow clips are drawn as one band
  else clips.forEach((clip) => box(clip, low));
  context.fillStyle = matchColor;
  const strengthByClip = matchStrengths();
  for (const clip of clips) {
    if (!strengthByClip.has(clip.id)) continue;
    context.globalAlpha = strengthByClip.get(clip.id);
    box(clip, low * (1 - strengthByClip.get(clip.id)));
  }
}

// How strongly each matching clip is drawn, 0 to 1: probabilities as they are, similarities scaled from the lowest to the highest.
function matchStrengths() {
  const scores = [...results].map(([id, result]) => [id, fitOf(result)]);
  const cosines = scores.filter(([, { isProbability }]) => !isProbability).map(([, { value }]) => value);
  const [min, max] = [Math.min(...cosines), Math.max(...cosines)];
  const hasProbability = cosines.length < scores.length;
  return new Map(scores.map(([id, { isProbability, value }]) =>
    [id, !isProbability ? (hasProbability || max <= min ? 0.2 : 0.2 + (0.8 * (value - min)) / (max - min)) : value]));
}

// Preview of the clip below the pointer

// The second below the pointer, and the match whose marker is there.
function locatePointer({ clientX }) {
  const { left, width } = $("track").getBoundingClientRect();
  const seconds = ((clientX - left) / width) * duration;
  const near = matches.filter(({ start }) => Math.abs(start - seconds) <= (MARKER_REACH / width) * duration);
  return { seconds, match: near.sort((a, b) => Math.abs(a.start - seconds) - Math.abs(b.start - seconds))[0] };
}

function previewAtPointer(event) {
  const { seconds, match } = locatePointer(event);
  previewClip(clipIndexAt(seconds), match);
}

function previewClip(index, match) {
  clearTimeout(previewTimer);
  previewTimer = setTimeout(() => {
    const clip = clips[index];
    if (!clip) return;
    const time = match ? match.start : (clip.start + clip.end) / 2;
    $("peek-image").hidden = !hasPictures;
    if (hasPictures) $("peek-image").src = match ? thumbnailAt(clip, time) : clip.thumbnail_url;
    $("peek-text").textContent = match ? `${formatTime(time)} ${match.text}` : describeClip(index, "–", (result) => fitOf(result).text);
    const middle = (time / duration) * 100;
    $("peek").style.setProperty("--at", `${Math.max(0, Math.min(100, middle))}%`);
    $("peek").hidden = false;
  }, PREVIEW_DELAY);
}

function hidePreview() {
  clearTimeout(previewTimer);
  $("peek").hidden = true;
}

export function prepareTimeline() {
  $("track").onclick = (event) => {
    const { seconds, match } = locatePointer(event);
    if (match) selectMatch(match);
    else if (clips.length) selectClip(clipIndexAt(seconds));
  };
  $("track").onpointermove = previewAtPointer;
  $("track").onpointerleave = hidePreview;
  $("track").onfocus = () => $("track").matches(":focus-visible") && previewClip(Math.max(0, selected));
  $("track").onblur = hidePreview;
  $("track").onkeydown = (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (clips.length) selectClip(Math.max(0, selected));
    }
  };
  new ResizeObserver(redraw).observe($("track-canvas"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
