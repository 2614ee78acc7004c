// A form that asks the model something: busy until the answer is there, or the reason why there is none.

import { announce } from "./toasts.js";
import { el } from "./dom.js";

// ``run(work)`` fills ``out`` with the elements that ``work(signal)`` resolves to as ``shown``, and says what it has as ``told``
// to those who hear the page; ``clear()`` empties it, and what is still
// under way is given up: its answer would be about something else than what is shown by then.
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
      button.setAttribute("aria-disabled", "true"); // and not disabled, which would take the focus away
      container.replaceChildren(el("p", { className: "facts", textContent: "Looking…" }));
      announce("Looking…");
      let output;
      try {
        output = await task(controller.signal);
      } catch (error) {
        output = { shown: [el("p", { className: "error", textContent: error.message })], told: error.message };
      }
      if (pending !== controller) return;
      container.replaceChildren(...output.shown);
      announce(output.told);
      finish();
    },
    clear() {
      pending?.abort();
      finish();
      container.replaceChildren();
    },
  };
}
