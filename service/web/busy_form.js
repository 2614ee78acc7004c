// A form that sends one request at a time and shows its result.

import { el } from "./dom.js";
import { announce } from "./toasts.js";

// ``run(task)`` fills ``container`` with the elements ``shown`` that ``task(signal)`` resolves to, and announces its ``message``.
// ``clear()`` empties the container and cancels the running task.
export function busyForm(form, container) {
  const button = form.querySelector("button.strong");
  let pending = null;
  const finish = () => {
    pending = null;
    button.removeAttribute("aria-disabled");
  };
  return {
    async run(task) {
      if (pending) return;
      const controller = new AbortController();
      pending = controller;
      button.setAttribute("aria-disabled", "true"); // not disabled, which would move the focus
      container.replaceChildren(el("p", { className: "facts", textContent: "Loading…" }));
      announce("Loading…");
      let output;
      try {
        output = await task(controller.signal);
      } catch (error) {
        output = { shown: [el("p", { className: "error", textContent: error.message })], message: error.message };
      }
      if (pending !== controller) return;
      container.replaceChildren(...output.shown);
      container.scrollIntoView({ block: "nearest" });
      announce(output.message);
      finish();
    },
    clear() {
      pending?.abort();
      finish();
      container.replaceChildren();
    },
  };
}
