// A question before something is done, with what has to be known for it.

import { field } from "./fields.js";
import { $, el } from "./dom.js";

// Resolves to what was filled in, by name, or to null. ``fields`` are elements; those with a name are read. ``word`` has to be
// typed where what follows cannot be undone.
export function confirmAction({ title, text, action, isDangerous = false, fields = [], word = null }) {
  const wordInput = word && el("input", { name: "word", required: true, autocomplete: "off", spellcheck: false });
  $("question-title").textContent = title;
  $("question-text").textContent = text;
  $("question-fields").replaceChildren(...fields,
    ...(wordInput ? [field(`Type ${word} to confirm`, wordInput)] : []));
  $("question-do").textContent = action;
  $("question-do").className = isDangerous ? "strong dangerous" : "strong";
  const check = () => ($("question-do").disabled = wordInput !== null && wordInput.value !== word);
  check();
  $("sure").oninput = check;
  $("question-dialog").showModal();
  if (isDangerous && !wordInput) $("question-cancel").focus(); // whoever presses Enter too soon has done nothing
  return new Promise((resolve) => {
    $("sure").onsubmit = (event) => {
      event.preventDefault();
      const values = [...$("question-fields").querySelectorAll("[name]")].map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
      resolve(Object.fromEntries(values));
      $("question-dialog").close();
    };
    $("question-dialog").onclose = () => resolve(null);
  });
}

$("question-cancel").onclick = () => $("question-dialog").close();
