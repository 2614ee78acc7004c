// A form that asks the model something: busy until the answer is there, or the reason why there is none.

import { announce } from "./notices.js";
import { el } from "./parts.js";

// ``run(work)`` fills ``out`` with the elements that ``work(signal)`` resolves to as ``shown``, and says what it has as ``told``
// to those who hear the page; ``clear()`` empties it, and what is still
// under way is given up: its answer would be about something else than what is shown by then.
export function looking(form, out) {
  const button = form.querySelector("button.strong");
  let asked = null;
  const end = () => {
    asked = null;
    button.removeAttribute("aria-disabled");
  };
  return {
    async run(work) {
      if (asked) return;
      const mine = new AbortController();
      asked = mine;
      button.setAttribute("aria-disabled", "true"); // and not disabled, which would take the focus away
      out.replaceChildren(el("p", { className: "facts", textContent: "Looking…" }));
      announce("Looking…");
      let answer;
      try {
        answer = await work(mine.signal);
      } catch (error) {
        answer = { shown: [el("p", { className: "error", textContent: error.message })], told: error.message };
      }
      if (asked !== mine) return;
      out.replaceChildren(...answer.shown);
      announce(answer.told);
      end();
    },
    clear() {
      asked?.abort();
      end();
      out.replaceChildren();
    },
  };
}
