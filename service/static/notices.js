// What is under way, in the corner of the page: a line for each.

import { $, el } from "./parts.js";

const LEFT_FOR = 4000; // milliseconds
const TOLD_FOR = 10000;

// Nothing is heard from behind an open dialog, so each has a place of its own for what is told.
for (const place of [document.body, ...document.querySelectorAll("dialog")]) {
  place.append(el("div", { className: "told hidden", role: "log", "aria-live": "polite" }));
}

// For those who hear the page: what has ended, and not every percent on the way. One after the other; none replaces another.
export function announce(text) {
  const open = document.activeElement.closest("dialog[open]") || [...document.querySelectorAll("dialog[open]")].at(-1);
  const told = el("p", { textContent: text });
  (open || document.body).querySelector(":scope > .told").append(told);
  setTimeout(() => told.remove(), TOLD_FOR);
}

export function line(name, ...buttons) {
  const fill = el("i");
  const status = el("span", { textContent: "waiting" });
  const actions = el("span", { className: "actions" }, ...buttons);
  const dismiss = el("button", { type: "button", textContent: "×", "aria-label": `Dismiss ${name}` });
  const box = el("div", { className: "upload" },
    el("div", { className: "row" }, el("span", { textContent: name, title: name }), actions, dismiss),
    el("div", { className: "meter" }, fill), status);
  dismiss.onclick = () => box.remove();
  $("uploads").append(box);
  // Whoever was at a button goes on at what takes its place.
  const offer = (...others) => {
    const wasInside = actions.contains(document.activeElement);
    actions.replaceChildren(...others);
    if (wasInside) (others[0] || dismiss).focus();
  };
  const ended = (text, isFailure) => {
    dismiss.hidden = false;
    box.classList.toggle("failed", isFailure);
    status.className = isFailure ? "error" : "";
    status.textContent = text;
  };
  return {
    remove: () => box.remove(),
    offer,
    hold: () => (dismiss.hidden = true), // until it has ended
    say(text, share) {
      box.classList.remove("failed");
      status.className = "";
      status.textContent = text;
      if (share !== undefined) fill.style.setProperty("--share", share);
    },
    fail(text, ...others) {
      ended(text, true);
      offer(...others);
      announce(`${name}: ${text}`);
    },
    // ``isToldLater`` where it is one of many that are told of together.
    end(text, notes = [], isToldLater = false) {
      fill.style.setProperty("--share", 1);
      const all = [text, ...notes].join("; ");
      ended(all, false);
      offer();
      if (notes.length || !isToldLater) announce(`${name}: ${all}`);
      if (!notes.length) setTimeout(() => box.remove(), LEFT_FOR);
    },
  };
}

export const small = (text, onclick) => el("button", { type: "button", textContent: text, onclick });
