// What is on the screen: a line that sums it up, and cards, or a note in their place.

import { $, clock, el, preview, scoreBars, span } from "./parts.js";

export function say(text, isError = false) {
  $("summary").textContent = text;
  $("summary").classList.toggle("error", isError);
}

export function note(title, text, ...actions) {
  $("results").replaceChildren(el("div", { className: "note" },
    el("h2", { textContent: title }), el("p", { textContent: text }), ...actions));
}

export function fail(error, again) {
  if (error.name === "AbortError") return;
  say("");
  note("That did not work", error.message, el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: again }));
  $("results").firstChild.classList.add("failed");
  $("more").hidden = true;
}

export function loading() {
  $("more").hidden = true;
  $("results").setAttribute("aria-busy", "true");
  $("results").replaceChildren(...Array.from({ length: 8 }, () => el("div", { className: "ghost" })));
}

export function card(clip, rank, open) {
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
    onclick: () => open(clip), onpointerenter: shown.play, onpointerleave: shown.rest, onfocus: shown.play, onblur: shown.rest,
  }, shown.screen, text);
}

function describe(video) {
  const facts = Object.entries(video.metadata).slice(0, 3).map(([key, value]) => `${key}: ${value}`);
  return [`${video.width}×${video.height}`, ...facts].join(" · ");
}
