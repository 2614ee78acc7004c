// What is under way, in the corner of the page: a line for each.

import { $, el } from "./parts.js";

const LEFT_FOR = 4000; // milliseconds

// For those who hear the page: what has ended, and not every percent on the way.
export const announce = (text) => ($("told").textContent = text);

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
    announce(`${name}: ${text}`);
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
    },
    end(text, notes = []) {
      fill.style.setProperty("--share", 1);
      ended([text, ...notes].join("; "), false);
      offer();
      if (!notes.length) setTimeout(() => box.remove(), LEFT_FOR);
    },
  };
}

export const small = (text, onclick) => el("button", { type: "button", textContent: text, onclick });
