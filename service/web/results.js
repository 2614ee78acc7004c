// What is on the screen: a line that sums it up, and cards, or a note in their place.

import { announce } from "./toasts.js";
import { $, formatTime, el, describeScores, preview, scoreBars, formatSpan } from "./dom.js";

export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

let lastMessage = ""; // why there are no cards, which is not told again when they are looked for again

export function setSummary(text, isError = false) {
  if (text) lastMessage = "";
  $("summary").textContent = text;
  $("summary").classList.toggle("error", isError);
}

// In the place of the cards, why there are none.
export function showMessage(title, text, ...actions) {
  const element = el("div", { className: "note" }, el("h2", { textContent: title }), el("p", { textContent: text }), ...actions);
  keepFocus(() => $("results").replaceChildren(element));
  setSummary("");
  if (lastMessage !== text) announce(`${title}. ${text}`);
  lastMessage = text;
  return element;
}

export function showError(error, retry) {
  if (error.name === "AbortError") return;
  lastMessage = "";
  const button = el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: retry });
  showMessage("That did not work", error.message, button).classList.add("failed");
  $("more").hidden = true;
}

// Whoever was at a card is at the same one then, or where the cards are.
function keepFocus(change) {
  const { activeElement } = document;
  const wasInside = $("results").contains(activeElement);
  const label = activeElement.getAttribute("aria-label");
  change();
  if (!wasInside) return;
  const sameCard = label && $("results").querySelector(`[aria-label="${CSS.escape(label)}"]`);
  (sameCard || $("results")).focus({ preventScroll: true });
}

// What was there stays, dimmed, until there is something else: nothing flickers where answers are quick.
export function showLoading() {
  $("more").hidden = true;
  $("results").setAttribute("aria-busy", "true");
  if ($("results").querySelector(".card")) return;
  $("results").replaceChildren(...Array.from({ length: 8 }, () => el("div", { className: "ghost" })));
}

export const hideLoading = () => $("results").removeAttribute("aria-busy");

// All in one go. With ``more`` they come after those that are there, and the first of them has the focus.
export function showCards(cards, more = false) {
  if (!more) keepFocus(() => $("results").replaceChildren(...cards));
  else {
    $("results").append(...cards);
    cards[0]?.querySelector(".card").focus({ preventScroll: true });
  }
}

// A video as it was added.
export function videoCard(video, onOpen) {
  const clip = { video, start: 0, end: video.duration, media_url: video.media_url, thumbnail_url: video.thumbnail_url };
  const time = clip.end ? formatTime(clip.end) : "picture";
  return resultTile(clip, onOpen, { time, label: `${video.title}, ${time}` },
    el("span", { className: "meta", textContent: describeVideo(video) }));
}

// A clip, moment or video that was found, from place 1 on.
export function resultCard(clip, rank, onOpen, onFindSimilar) {
  const time = formatSpan(clip.start, clip.end);
  const details = [clip.text.slice(0, 120), clip.clip_count > 1 ? `best of ${clip.clip_count} clips` : "",
    clip.ranks.fulltext ? `rank ${clip.ranks.fulltext} by full text` : ""].filter(Boolean).join(" · ");
  const label = [`${rank}. ${clip.video.title}`, formatSpan(clip.start, clip.end, "to"), describeScores(clip), details].filter(Boolean).join(", ");
  const cell = resultTile(clip, onOpen, { rank, time: time, label },
    details ? el("span", { className: "meta", textContent: details, title: clip.text }) : null, scoreBars(clip));
  const button = el("button", { type: "button", className: "like-this", textContent: "More like this", "aria-label": `More like this: ${rank}. ${clip.video.title}`, onclick: () => onFindSimilar(clip) });
  cell.append(button);
  return cell;
}

function resultTile(clip, onOpen, { rank, time, label }, ...details) {
  const media = preview(clip);
  if (rank) media.screen.append(el("span", { className: "rank", textContent: rank }));
  media.screen.append(el("span", { className: "time", textContent: time }));
  const title = el("span", { className: "title", textContent: clip.video.title, title: clip.video.title });
  return el("div", { className: "cell" }, el("button", {
    type: "button", className: "card", "aria-label": label,
    onclick: () => onOpen(clip), onpointerenter: media.play, onpointerleave: media.rest, onfocus: media.play, onblur: media.rest,
  }, media.screen, el("span", { className: "text" }, title, ...details.filter(Boolean))));
}

function describeVideo(video) {
  const facts = Object.entries(video.metadata).slice(0, 3).map(([key, value]) => `${key}: ${value}`);
  return [`${video.width}×${video.height}`, ...facts].join(" · ");
}

// Arrow keys go from card to card, and up from the first row.
export function moveFocus(event, elementAbove) {
  const cards = [...$("results").querySelectorAll(".card")];
  const columns = getComputedStyle($("results")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = cards[cards.indexOf(event.target) + step];
  event.preventDefault();
  if (next) next.focus();
  else if (event.key === "ArrowUp") elementAbove.focus();
}
