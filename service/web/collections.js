// The list of collections, the current one, and the dialog that creates one.

import { call, hasScope } from "./api.js";
import { $, el, INDEX_KINDS, select } from "./dom.js";

const LAST_USED = "vitascope.collection";
let collections = [];
let unreadable = [];
let selectedName = null;
let preferredName = lastUsed(); // selected if it exists
let latest = null; // request
let resolveLoaded;
const loaded = new Promise((resolve) => (resolveLoaded = resolve));

// The current collection's name and data; null and undefined if there is none.
export const currentName = () => selectedName;
export const currentCollection = () => collections.find((collection) => collection.name === selectedName);

// All collections, and the names of damaged ones.
export const allCollections = () => ({ collections, unreadable });

// Resolves to the current name once collections are loaded.
export const currentNameOnceLoaded = async () => (await loaded, selectedName);

// Select ``name``; by default the current collection, or the last one used in this browser.
export async function loadCollections(name = preferredName) {
  preferredName = name;
  latest = call("GET", "/v1/collections");
  for (let request; request !== latest; ) ({ collections, unreadable } = await (request = latest)); // until it is the newest
  const names = collections.map((collection) => collection.name);
  selectedName = preferredName = names.includes(preferredName) ? preferredName : names[0] || null;
  const isNarrow = matchMedia("(max-width: 36rem)").matches; // as in the style sheets
  $("collections").replaceChildren(...collections.map(({ name, videos }) => el("option", { value: name, textContent: isNarrow ? name : `${name} (${videos})` })));
  $("collections").value = selectedName || "";
  rememberSelected();
  $("collections").disabled = $("upload").disabled = !names.length;
  resolveLoaded();
}

// Storage may be blocked.
function lastUsed() {
  try {
    return localStorage.getItem(LAST_USED);
  } catch {
    return null;
  }
}

function rememberSelected() {
  try {
    if (selectedName) localStorage.setItem(LAST_USED, selectedName);
  } catch {
    // The first collection is shown next time.
  }
}

export async function openNewCollection() {
  $("name-error").textContent = "";
  $("name-index").replaceChildren(...select(INDEX_KINDS).children);
  $("name-model").replaceChildren(el("option", { value: "", textContent: "Default model" }));
  $("name-dialog").showModal();
  $("name").focus();
  try {
    const isAllowed = await hasScope("admin");
    if (!isAllowed) $("name-error").textContent = "Your API key cannot create collections. Use a key with the admin scope.";
    const { models } = await call("GET", "/v1/models");
    $("name-model").append(...models.filter((model) => model.state === "ready" && !model.default)
      .map((model) => el("option", { value: model.fingerprint, textContent: `${model.name} ${model.version}` })));
  } catch {
    // The default model needs no list; other errors show when the collection is created.
  }
}

// ``onSelect()`` is called for a selected collection, ``onCreated()`` for a new one, which is selected.
export function prepareCollections(onSelect, onCreated) {
  $("collections").onchange = () => {
    selectedName = preferredName = $("collections").value;
    rememberSelected();
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
