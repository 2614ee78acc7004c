// What is on the screen: a line that sums it up, and cards, or a note in their place.

import { announce } from "./notices.js";
import { $, clock, el, spoken, preview, scoreBars, span } from "./parts.js";

export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

let told = ""; // why there are no cards, which is not told again when they are looked for again

export function say(text, isError = false) {
  if (text) told = "";
  $("summary").textContent = text;
  $("summary").classList.toggle("error", isError);
}

// In the place of the cards, why there are none.
export function note(title, text, ...actions) {
  const made = el("div", { className: "note" }, el("h2", { textContent: title }), el("p", { textContent: text }), ...actions);
  keepFocus(() => $("results").replaceChildren(made));
  say("");
  if (told !== text) announce(`${title}. ${text}`);
  told = text;
  return made;
}

export function fail(error, again) {
  if (error.name === "AbortError") return;
  told = "";
  const button = el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: again });
  note("That did not work", error.message, button).classList.add("failed");
  $("more").hidden = true;
}

// Whoever was at a card is at the same one then, or where the cards are.
function keepFocus(change) {
  const { activeElement } = document;
  const wasInside = $("results").contains(activeElement);
  const label = activeElement.getAttribute("aria-label");
  change();
  if (!wasInside) return;
  const same = label && $("results").querySelector(`[aria-label="${CSS.escape(label)}"]`);
  (same || $("results")).focus({ preventScroll: true });
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
  if (!more) keepFocus(() => $("results").replaceChildren(...cards));
  else {
    $("results").append(...cards);
    cards[0]?.querySelector(".card").focus({ preventScroll: true });
  }
}

// A video as it was added.
export function videoCard(video, open) {
  const clip = { video, start: 0, end: video.duration, media_url: video.media_url, thumbnail_url: video.thumbnail_url };
  const time = clip.end ? clock(clip.end) : "picture";
  return card(clip, open, { time, label: `${video.title}, ${time}` },
    el("span", { className: "meta", textContent: describe(video) }));
}

// A clip, moment or video that was found, from place 1 on.
export function resultCard(clip, rank, open, likeThis) {
  const when = span(clip.start, clip.end);
  const about = [clip.text.slice(0, 120), clip.clip_count > 1 ? `best of ${clip.clip_count} clips` : "",
    clip.ranks.fulltext ? `rank ${clip.ranks.fulltext} by full text` : ""].filter(Boolean).join(" · ");
  const label = [`${rank}. ${clip.video.title}`, span(clip.start, clip.end, "to"), spoken(clip), about].filter(Boolean).join(", ");
  const cell = card(clip, open, { rank, time: when, label },
    about ? el("span", { className: "meta", textContent: about, title: clip.text }) : null, scoreBars(clip));
  const button = el("button", { type: "button", className: "like-this", textContent: "More like this", "aria-label": `More like this: ${rank}. ${clip.video.title}`, onclick: () => likeThis(clip) });
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
