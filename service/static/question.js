// A question before something is done, with what has to be known for it.

import { field } from "./fields.js";
import { $, el } from "./parts.js";

// Resolves to what was filled in, by name, or to null. ``fields`` are elements; those with a name are read. ``word`` has to be
// typed where what follows cannot be undone.
export function question({ title, text, action, isDangerous = false, fields = [], word = null }) {
  const typed = word && el("input", { name: "word", required: true, autocomplete: "off", spellcheck: false });
  $("question-title").textContent = title;
  $("question-text").textContent = text;
  $("question-fields").replaceChildren(...fields,
    ...(typed ? [field(`Type ${word} to confirm`, typed)] : []));
  $("question-do").textContent = action;
  $("question-do").className = isDangerous ? "strong dangerous" : "strong";
  const check = () => ($("question-do").disabled = typed !== null && typed.value !== word);
  check();
  $("sure").oninput = check;
  $("question-dialog").showModal();
  if (isDangerous && !typed) $("question-cancel").focus(); // whoever presses Enter too soon has done nothing
  return new Promise((resolve) => {
    $("sure").onsubmit = (event) => {
      event.preventDefault();
      const read = [...$("question-fields").querySelectorAll("[name]")].map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
      resolve(Object.fromEntries(read));
      $("question-dialog").close();
    };
    $("question-dialog").onclose = () => resolve(null);
  });
}

$("question-cancel").onclick = () => $("question-dialog").close();
