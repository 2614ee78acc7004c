// The results area: a summary line, and cards or a message.

import { $, describeSize, el, formatTime, preview } from "./dom.js";
import { announce } from "./toasts.js";

let lastMessage = ""; // not announced again if it is shown again

export function setSummary(text, isError = false) {
  if (text) lastMessage = "";
  $("summary").textContent = text;
  $("summary").classList.toggle("error", isError);
}

// Show warnings about a search above its results.
export const showWarnings = (warnings) =>
  $("warnings").replaceChildren(...warnings.map(({ code, detail }) =>
    el("p", { className: "warning", textContent: code === "no_good_match" ? "No good match. These are the nearest results." : `${detail}.`.replace("..", ".") })));

// Show a message in place of the cards.
export function showMessage(title, text, ...actions) {
  const element = el("div", { className: "note" }, el("h2", { textContent: title }), el("p", { textContent: text }), ...actions);
  keepFocus(() => $("results").replaceChildren(element));
  showWarnings([]);
  setSummary("");
  if (lastMessage !== text) announce(`${title}. ${text}`);
  lastMessage = text;
  return element;
}

export function showError(error, retry) {
  if (error.name === "AbortError") return;
  lastMessage = "";
  const button = el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: retry });
  showMessage("Something went wrong", error.message, button).classList.add("failed");
  $("more").hidden = true;
}

// Keep the focus on the same card, or on the results.
function keepFocus(change) {
  const { activeElement } = document;
  const wasInside = $("results").contains(activeElement);
  const label = activeElement.getAttribute("aria-label");
  change();
  if (!wasInside) return;
  const sameCard = label && $("results").querySelector(`[aria-label="${CSS.escape(label)}"]`);
  (sameCard || $("results")).focus({ preventScroll: true });
}

// Old results stay, dimmed, until new ones arrive, so that fast responses do not flicker.
export function showLoading() {
  $("more").hidden = true;
  showWarnings([]);
  $("results").setAttribute("aria-busy", "true");
  if ($("results").querySelector(".card")) return;
  $("results").replaceChildren(...Array.from({ length: 8 }, () => el("div", { className: "ghost" })));
}

export const hideLoading = () => $("results").removeAttribute("aria-busy");

// Show all cards at once. With ``more`` they are appended, and the first new one gets the focus.
export function showCards(cards, more = false) {
  if (!more) keepFocus(() => $("results").replaceChildren(...cards));
  else {
    $("results").append(...cards);
    cards[0]?.querySelector(".card").focus({ preventScroll: true });
  }
}

export function videoCard(video, onOpen) {
  const clip = { video, start: 0, end: video.duration, media_url: video.media_url, thumbnail_url: video.thumbnail_url };
  const time = clip.end ? formatTime(clip.end) : "picture";
  return resultTile(clip, onOpen, { time, label: `${video.title}, ${time}` },
    el("span", { className: "meta", textContent: describeVideo(video) }));
}

// ``details`` are nodes below the title.
export function resultTile(clip, onOpen, { rank, time, label }, ...details) {
  const media = preview(clip);
  if (rank) media.screen.append(el("span", { className: "rank", textContent: rank }));
  media.screen.append(el("span", { className: "time", textContent: time }));
  const path = shortPath(clip.video);
  const place = path || clip.video.missing ? el("span", { className: "meta place", title: clip.video.path || "" },
    clip.video.missing ? el("b", { textContent: path ? "File missing: " : "File missing" }) : null, path) : null;
  const title = el("span", { className: "title", textContent: clip.video.title, title: clip.video.title });
  return el("div", { className: "cell" }, el("button", {
    type: "button", className: "card", "aria-label": label,
    onclick: () => onOpen(clip), onpointerenter: media.play, onpointerleave: media.stop, onfocus: media.play, onblur: media.stop,
  }, media.screen, el("span", { className: "text" }, title, place, ...details)));
}

// Folder and name of the file, which tell apart videos of one title; empty for uploads.
export const shortPath = ({ path }) => (path ? path.split("/").slice(-2).join("/") : "");

function describeVideo(video) {
  const facts = Object.entries(video.metadata).slice(0, 3).map(([key, value]) => `${key}: ${value}`);
  return [describeSize(video), ...facts].join(" · ");
}

// Move the focus between cards by arrow keys, and up from the first row.
export function moveFocus(event, elementAbove) {
  const cards = [...$("results").querySelectorAll(".card")];
  const columns = getComputedStyle($("results")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = cards[cards.indexOf(event.target) + step];
  event.preventDefault();
  if (next) next.focus();
  else if (event.key === "ArrowUp") elementAbove.focus();
}
