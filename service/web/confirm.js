// The confirmation dialog.

import { $, el, field } from "./dom.js";

// Resolves to the values of named fields, or to null if cancelled. ``fields``: elements. ``word``: must be typed to confirm what
// cannot be undone.
export function confirmAction({ title, text, action, isDangerous = false, fields = [], word = null }) {
  const wordInput = word && el("input", { name: "word", required: true, autocomplete: "off", spellcheck: false });
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-fields").replaceChildren(...fields,
    ...(wordInput ? [field(`Type “${word}” to confirm`, wordInput)] : []));
  $("confirm-submit").textContent = action;
  $("confirm-submit").className = isDangerous ? "strong dangerous" : "strong";
  const check = () => ($("confirm-submit").disabled = wordInput !== null && wordInput.value !== word);
  check();
  $("confirm-form").oninput = check;
  $("confirm-dialog").showModal();
  if (isDangerous && !wordInput) $("confirm-cancel").focus(); // Enter cancels
  return new Promise((resolve) => {
    $("confirm-form").onsubmit = (event) => {
      event.preventDefault();
      const values = [...$("confirm-fields").querySelectorAll("[name]")].map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
      resolve(Object.fromEntries(values));
      $("confirm-dialog").close();
    };
    $("confirm-dialog").onclose = () => resolve(null);
  });
}

$("confirm-cancel").onclick = () => $("confirm-dialog").close();
