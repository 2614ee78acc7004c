// What is under way, in the corner of the page: a line for each.

import { $, el } from "./dom.js";

const DISMISS_AFTER = 4000; // milliseconds
const ANNOUNCEMENT_LIFETIME = 10000;

// Nothing is heard from behind an open dialog, so each has a place of its own for what is told.
for (const container of [document.body, ...document.querySelectorAll("dialog")]) {
  container.append(el("div", { className: "told hidden", role: "log", "aria-live": "polite" }));
}

// For those who hear the page: what has ended, and not every percent on the way. One after the other; none replaces another.
export function announce(text) {
  const dialog = document.activeElement.closest("dialog[open]") || [...document.querySelectorAll("dialog[open]")].at(-1);
  const message = el("p", { textContent: text });
  (dialog || document.body).querySelector(":scope > .told").append(message);
  setTimeout(() => message.remove(), ANNOUNCEMENT_LIFETIME);
}

export function createToast(name, ...buttons) {
  const fill = el("i");
  const status = el("span", { textContent: "waiting" });
  const actions = el("span", { className: "actions" }, ...buttons);
  const dismiss = el("button", { type: "button", textContent: "×", "aria-label": `Dismiss ${name}` });
  const element = el("div", { className: "upload" },
    el("div", { className: "row" }, el("span", { textContent: name, title: name }), actions, dismiss),
    el("div", { className: "meter" }, fill), status);
  dismiss.onclick = () => element.remove();
  $("uploads").append(element);
  // Whoever was at a button goes on at what takes its place.
  const setActions = (...newButtons) => {
    const wasInside = actions.contains(document.activeElement);
    actions.replaceChildren(...newButtons);
    if (wasInside) (newButtons[0] || dismiss).focus();
  };
  const showEnd = (text, isFailure) => {
    dismiss.hidden = false;
    element.classList.toggle("failed", isFailure);
    status.className = isFailure ? "error" : "";
    status.textContent = text;
  };
  return {
    remove: () => element.remove(),
    offer: setActions,
    hold: () => (dismiss.hidden = true), // until it has ended
    say(text, share) {
      element.classList.remove("failed");
      status.className = "";
      status.textContent = text;
      if (share !== undefined) fill.style.setProperty("--share", share);
    },
    fail(text, ...newButtons) {
      showEnd(text, true);
      setActions(...newButtons);
      announce(`${name}: ${text}`);
    },
    // ``isToldLater`` where it is one of many that are told of together.
    end(text, notes = [], isToldLater = false) {
      fill.style.setProperty("--share", 1);
      const summary = [text, ...notes].join("; ");
      showEnd(summary, false);
      setActions();
      if (notes.length || !isToldLater) announce(`${name}: ${summary}`);
      if (!notes.length) setTimeout(() => element.remove(), DISMISS_AFTER);
    },
  };
}

export const toastButton = (text, onclick) => el("button", { type: "button", textContent: text, onclick });
