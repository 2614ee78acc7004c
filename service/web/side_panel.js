// The side panel with the tabs Jobs, Collections, Models and Keys.

import { call, reportUnreachable } from "./api.js";
import { currentCollection } from "./collections.js";
import { $, el } from "./dom.js";

const NAMES = ["jobs", "collections", "models", "keys"];
const panels = {}; // by name: called with the container; may return a clean-up function
let cleanUp = () => {};
let currentPanel = null;

export function preparePanels(panelsByName) {
  Object.assign(panels, panelsByName);
  for (const name of NAMES) tab(name).onclick = () => show(name);
  $("tabs").onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(NAMES[(NAMES.indexOf(currentPanel) + step + NAMES.length) % NAMES.length]);
    tab(currentPanel).focus();
  };
  $("open-collections").onclick = () => openPanel("collections");
  $("sheet-close").onclick = () => $("sheet").close();
  $("sheet").addEventListener("close", () => {
    cleanUp();
    cleanUp = () => {};
    currentPanel = null;
    if (NAMES.includes(location.hash.slice(1))) setHash("");
  });
  $("sheet").addEventListener("click", (event) => event.target === $("sheet") && $("sheet").close());
  $("model").onclick = () => openPanel("models");
  addEventListener("hashchange", openPanelFromAddress);
}

export let maxCaptionClips = 0; // of one request
let usableModels = []; // that of the collection first; one that is being loaded answers soon
// The fingerprint of a model with this task, that of the collection if it has it; null if none does.
export const modelFor = (task) => usableModels.find(({ tasks }) => tasks.includes(task))?.fingerprint ?? null;

// Show the model of the current collection, or the default one, in the header, and its licence in the footer.
export async function showModel() {
  const { models, max_caption_clips: limit } = await call("GET", "/v1/models").catch(() => ({ models: [] })); // searches report the error
  const model = models.find(({ fingerprint }) => fingerprint === currentCollection()?.fingerprint) || models[0];
  if (!model) return;
  maxCaptionClips = limit;
  usableModels = [model, ...models].filter(({ state }) => state !== "failed");
  $("model").textContent = model.state === "failed" ? "Model: failed" : `Model: ${model.name}`;
  $("model").classList.toggle("danger", model.state === "failed");
  $("model").hidden = false;
  $("licence").textContent = model.licence ? `Model ${model.name} ${model.version}, licence: ${model.licence}` : "";
}

// ``#jobs`` in the address opens the Jobs tab, and so on; Back may lead to an address without.
export function openPanelFromAddress() {
  if (NAMES.includes(location.hash.slice(1))) openPanel(location.hash.slice(1));
  else $("sheet").close();
}

export function openPanel(name) {
  if (!$("sheet").open) $("sheet").showModal();
  show(name);
  tab(name).focus();
}

const tab = (name) => $("tabs").querySelector(`[data-panel=${name}]`);
const setHash = (hash) => history.replaceState(history.state, "", location.pathname + location.search + hash);

function show(name) {
  if (name === currentPanel) return;
  cleanUp();
  currentPanel = name;
  setHash(`#${name}`);
  for (const panelName of NAMES) {
    tab(panelName).setAttribute("aria-selected", panelName === name);
    tab(panelName).tabIndex = panelName === name ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", tab(name).id);
  $("panel").replaceChildren();
  cleanUp = panels[name]($("panel")) || (() => {});
}

const latestRenders = new WeakMap(); // by container: late results must not replace newer ones

// Fill ``container`` with the elements that ``build()`` resolves to; until then with placeholders, or with an error.
export async function renderInto(container, build) {
  const render = {};
  latestRenders.set(container, render);
  const isStale = () => latestRenders.get(container) !== render;
  container.setAttribute("aria-busy", "true");
  if (!container.childElementCount) container.append(...Array.from({ length: 3 }, () => el("div", { className: "ghost line" })));
  try {
    const elements = await build();
    while (container.matches(":active")) await new Promise((resolve) => setTimeout(resolve, 50)); // a pressed button must stay until released
    if (!isStale()) keepFocus(container, () => container.replaceChildren(...elements));
  } catch (error) {
    if (isStale()) return;
    container.replaceChildren(el("div", { className: "note failed", role: "alert" },
      el("h2", { textContent: "Something went wrong" }), el("p", { textContent: error.message }),
      el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: () => renderInto(container, build) })));
  } finally {
    if (!isStale()) container.removeAttribute("aria-busy");
  }
}

// A panel whose module is loaded when it is opened; its ``showPanel(container, callbacks)`` may return a clean-up function.
export const lazyPanel = (loadModule, callbacks) => (panel) => {
  let isClosed = false;
  let cleanUp = () => {};
  renderInto(panel, async () => {
    const { showPanel } = await loadModule().catch(reportUnreachable);
    if (!isClosed) cleanUp = showPanel(panel, callbacks) || cleanUp;
    return []; // stale by now: the panel renders itself
  });
  return () => {
    isClosed = true;
    cleanUp();
  };
};

// Keep the focus on the same button after a redraw.
function keepFocus(container, change) {
  const wasInside = container !== document.activeElement && container.contains(document.activeElement);
  const { key } = document.activeElement.dataset;
  change();
  if (wasInside) ((key && container.querySelector(`[data-key="${CSS.escape(key)}"]`)) || container).focus();
}

export const emptyState = (title, text, ...actions) => el("div", { className: "note" },
  el("h2", { textContent: title }), el("p", { textContent: text }), ...actions);

export const chip = (text, kind = "") => el("span", { className: `chip ${kind}`, textContent: text });

// A button that shows errors of its action beside it. ``key`` identifies it after a redraw.
export function actionButton(text, key, action, className = "quiet") {
  const button = el("button", { type: "button", className, textContent: text, "data-key": key });
  button.onclick = async () => {
    const group = button.closest(".actions");
    group.querySelector(".error")?.remove();
    button.setAttribute("aria-disabled", "true");
    try {
      await action();
    } catch (error) {
      group.append(el("p", { className: "error", role: "alert", textContent: error.message }));
    } finally {
      button.removeAttribute("aria-disabled");
    }
  };
  return button;
}
