// A form that asks the model something: busy until the answer is there, or the reason why there is none.

import { el } from "./parts.js";

export async function working(form, out, work) {
  const button = form.querySelector("button.strong");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true"); // and not disabled, which would take the focus away
  out.replaceChildren(el("p", { className: "facts", textContent: "Looking…" }));
  try {
    out.replaceChildren(...(await work()));
  } catch (error) {
    out.replaceChildren(el("p", { className: "error", textContent: error.message }));
  } finally {
    button.removeAttribute("aria-disabled");
  }
}
