// Toasts for work in progress, and announcements for screen readers.

import { $, el } from "./dom.js";

const DISMISS_AFTER = 4000; // milliseconds
const ANNOUNCEMENT_LIFETIME = 10000;

// Content behind an open dialog is not announced, so each dialog has its own live region.
for (const container of [document.body, ...document.querySelectorAll("dialog")]) {
  container.append(el("div", { className: "announcements hidden", role: "log", "aria-live": "polite" }));
}

// Announce a message to screen readers. Messages queue; none replaces another.
export function announce(text) {
  const dialog = document.activeElement.closest("dialog[open]") || [...document.querySelectorAll("dialog[open]")].at(-1);
  const message = el("p", { textContent: text });
  (dialog || document.body).querySelector(":scope > .announcements").append(message);
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
  // Keep the focus on the buttons that replace the focused one.
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
    setActions,
    hideDismiss: () => (dismiss.hidden = true), // until it has ended
    update(text, share) {
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
    // ``isQuiet``: one of several that are announced together.
    finish(text, notes = [], isQuiet = false) {
      fill.style.setProperty("--share", 1);
      const summary = [text, ...notes].join("; ");
      showEnd(summary, false);
      setActions();
      if (notes.length || !isQuiet) announce(`${name}: ${summary}`);
      if (!notes.length) setTimeout(() => element.remove(), DISMISS_AFTER);
    },
  };
}

export const toastButton = (text, onclick) => el("button", { type: "button", textContent: text, onclick });
