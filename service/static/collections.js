// Collections: which there are, which one is looked at, and making one.

import { call } from "./api.js";
import { may } from "./rights.js";
import { $, el } from "./parts.js";

let all = [];
let unreadable = [];
let chosen = null;
let haveLoaded;
const loaded = new Promise((resolve) => (haveLoaded = resolve));

// The one that is looked at, by name and as the service tells it; null and undefined where there is none.
export const chosenName = () => chosen;
export const current = () => all.find((each) => each.name === chosen);

// All, and the names of those that are damaged.
export const allCollections = () => ({ collections: all, unreadable });

// The name of the one that is looked at, once it is known.
export const chosenOnceLoaded = async () => (await loaded, chosen);

export async function loadCollections(wanted = chosen) {
  ({ collections: all, unreadable } = await call("GET", "/v1/collections"));
  const names = all.map((each) => each.name);
  chosen = names.includes(wanted) ? wanted : names[0] || null;
  $("collections").replaceChildren(...all.map((each) =>
    el("option", { value: each.name, textContent: `${each.name} (${each.videos})` })));
  $("collections").value = chosen || "";
  $("collections").disabled = !names.length;
  $("upload").disabled = !names.length;
  haveLoaded();
}

export async function askForName() {
  $("name-error").textContent = "";
  $("name-model").replaceChildren(el("option", { value: "", textContent: "the default" }));
  $("name-dialog").showModal();
  $("name").focus();
  try {
    const isAllowed = await may("admin");
    if (!isAllowed) $("name-error").textContent = "The key of this tab may make no collection; one with the scope admin may.";
    const { models } = await call("GET", "/v1/models");
    $("name-model").append(...models.filter((model) => model.state === "ready" && !model.default)
      .map((model) => el("option", { value: model.fingerprint, textContent: `${model.name} ${model.version}` })));
  } catch {
    // The default can be chosen all the same, and what else is wrong is said when the collection is made.
  }
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
    const wanted = { name: $("name").value.trim(), index_kind: $("name-index").value, token_encoding: $("name-tokens").value };
    try {
      const made = await call("POST", "/v1/collections", { ...wanted, model: $("name-model").value || null });
      $("name-dialog").close();
      $("name").value = "";
      await loadCollections(made.name);
      await onMade();
    } catch (error) {
      $("name-error").textContent = error.message;
    }
  };
}
