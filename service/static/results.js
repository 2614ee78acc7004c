// What is on the screen: a line that sums it up, and cards, or a note in their place.

import { $, clock, el, leading, preview, scoreBars, span } from "./parts.js";

export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

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

// What was there stays, dimmed, until there is something else: nothing flickers where answers are quick.
export function loading() {
  $("more").hidden = true;
  $("results").setAttribute("aria-busy", "true");
  if ($("results").querySelector(".card")) return;
  $("results").replaceChildren(...Array.from({ length: 8 }, () => el("div", { className: "ghost" })));
}

export const loaded = () => $("results").removeAttribute("aria-busy");

// All in one go. With ``more`` they come after those that are there, and the first of them has the focus.
export function showCards(cards, more = false) {
  if (!more) $("results").replaceChildren(...cards);
  else {
    $("results").append(...cards);
    cards[0]?.querySelector(".card").focus({ preventScroll: true });
  }
}

// A video as it was added.
export function videoCard(video, open) {
  const clip = { video, start: 0, end: video.duration, media_url: video.media_url, thumbnail_url: video.thumbnail_url };
  return card(clip, open, { time: clip.end ? clock(clip.end) : "picture", label: video.title },
    el("span", { className: "meta", textContent: describe(video) }));
}

// A clip, moment or video that was found, from place 1 on.
export function resultCard(clip, rank, open, likeThis) {
  const when = span(clip.start, clip.end);
  const about = [clip.text.slice(0, 120), clip.clip_count > 1 ? `best of ${clip.clip_count} clips` : "",
    clip.ranks.words ? `place ${clip.ranks.words} by its words` : ""].filter(Boolean).join(" · ");
  const cell = card(clip, open, { rank, time: when, label: `${rank}. ${clip.video.title}, ${when}, ${leading(clip).text}` },
    about ? el("span", { className: "meta", textContent: about, title: clip.text }) : null, scoreBars(clip));
  const button = el("button", { type: "button", className: "like-this", textContent: "More like this", "aria-label": `More like ${rank}. ${clip.video.title}`, onclick: () => likeThis(clip) });
  cell.append(button);
  return cell;
}

function card(clip, open, { rank, time, label }, ...about) {
  const shown = preview(clip);
  if (rank) shown.screen.append(el("span", { className: "rank", textContent: rank }));
  shown.screen.append(el("span", { className: "time", textContent: time }));
  const title = el("span", { className: "title", textContent: clip.video.title, title: clip.video.title });
  return el("div", { className: "cell" }, el("button", {
    type: "button", className: "card", "aria-label": label,
    onclick: () => open(clip), onpointerenter: shown.play, onpointerleave: shown.rest, onfocus: shown.play, onblur: shown.rest,
  }, shown.screen, el("span", { className: "text" }, title, ...about.filter(Boolean))));
}

function describe(video) {
  const facts = Object.entries(video.metadata).slice(0, 3).map(([key, value]) => `${key}: ${value}`);
  return [`${video.width}×${video.height}`, ...facts].join(" · ");
}

// Arrow keys go from card to card, and up from the first row.
export function moveFocus(event, above) {
  const cards = [...$("results").querySelectorAll(".card")];
  const columns = getComputedStyle($("results")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = cards[cards.indexOf(event.target) + step];
  event.preventDefault();
  if (next) next.focus();
  else if (event.key === "ArrowUp") above.focus();
}
