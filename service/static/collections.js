// Collections: which there are, which one is looked at, and making one.

import { call } from "./api.js";
import { $, el } from "./parts.js";

let all = [];
let chosen = null;
let haveLoaded;
const loaded = new Promise((resolve) => (haveLoaded = resolve));

// The one that is looked at, by name and as the service tells it; null and undefined where there is none.
export const chosenName = () => chosen;
export const current = () => all.find((each) => each.name === chosen);

// The same, once it is known.
export const chosenOnceLoaded = async () => (await loaded, chosen);

export async function loadCollections(wanted = chosen) {
  all = (await call("GET", "/v1/collections")).collections;
  const names = all.map((each) => each.name);
  chosen = names.includes(wanted) ? wanted : names[0] || null;
  $("collections").replaceChildren(...all.map((each) =>
    el("option", { value: each.name, textContent: `${each.name} (${each.videos})` })));
  $("collections").value = chosen || "";
  $("collections").disabled = !names.length;
  $("upload").disabled = !names.length;
  haveLoaded();
}

export function askForName() {
  $("name-error").textContent = "";
  $("name-dialog").showModal();
  $("name").focus();
}

// ``onChosen`` is called when another one is looked at, ``onMade`` when that one is new and empty.
export function prepareCollections(onChosen, onMade) {
  $("collections").onchange = () => {
    chosen = $("collections").value;
    onChosen();
  };
  $("new-collection").onclick = askForName;
  $("name-cancel").onclick = () => $("name-dialog").close();
  $("name-form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      const made = await call("POST", "/v1/collections", { name: $("name").value.trim() });
      $("name-dialog").close();
      $("name").value = "";
      await loadCollections(made.name);
      await onMade();
    } catch (error) {
      $("name-error").textContent = error.message;
    }
  };
}
