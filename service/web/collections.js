// Collections: which there are, which one is looked at, and making one.

import { call } from "./api.js";
import { hasScope } from "./permissions.js";
import { $, el } from "./dom.js";

let collections = [];
let unreadable = [];
let selectedName = null;
let resolveLoaded;
const loaded = new Promise((resolve) => (resolveLoaded = resolve));

// The one that is looked at, by name and as the service tells it; null and undefined where there is none.
export const currentName = () => selectedName;
export const currentCollection = () => collections.find((each) => each.name === selectedName);

// All, and the names of those that are damaged.
export const allCollections = () => ({ collections: collections, unreadable });

// The name of the one that is looked at, once it is known.
export const currentNameOnceLoaded = async () => (await loaded, selectedName);

export async function loadCollections(preferred = selectedName) {
  ({ collections: collections, unreadable } = await call("GET", "/v1/collections"));
  const names = collections.map((each) => each.name);
  selectedName = names.includes(preferred) ? preferred : names[0] || null;
  $("collections").replaceChildren(...collections.map((each) =>
    el("option", { value: each.name, textContent: `${each.name} (${each.videos})` })));
  $("collections").value = selectedName || "";
  $("collections").disabled = !names.length;
  $("upload").disabled = !names.length;
  resolveLoaded();
}

export async function openNewCollection() {
  $("name-error").textContent = "";
  $("name-model").replaceChildren(el("option", { value: "", textContent: "the default" }));
  $("name-dialog").showModal();
  $("name").focus();
  try {
    const isAllowed = await hasScope("admin");
    if (!isAllowed) $("name-error").textContent = "The key of this tab may make no collection; one with the scope admin may.";
    const { models } = await call("GET", "/v1/models");
    $("name-model").append(...models.filter((model) => model.state === "ready" && !model.default)
      .map((model) => el("option", { value: model.fingerprint, textContent: `${model.name} ${model.version}` })));
  } catch {
    // The default can be chosen all the same, and what else is wrong is said when the collection is made.
  }
}

// ``onChosen`` is called when another one is looked at, ``onMade`` when that one is new and empty.
export function prepareCollections(onSelect, onCreated) {
  $("collections").onchange = () => {
    selectedName = $("collections").value;
    onSelect();
  };
  $("new-collection").onclick = openNewCollection;
  $("name-cancel").onclick = () => $("name-dialog").close();
  $("name-form").onsubmit = async (event) => {
    event.preventDefault();
    const request = { name: $("name").value.trim(), index_kind: $("name-index").value, token_encoding: $("name-tokens").value };
    try {
      const created = await call("POST", "/v1/collections", { ...request, model: $("name-model").value || null });
      $("name-dialog").close();
      $("name").value = "";
      await loadCollections(created.name);
      await onCreated();
    } catch (error) {
      $("name-error").textContent = error.message;
    }
  };
}
