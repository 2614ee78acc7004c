// The sheet at the side: jobs, collections, models and keys, one at a time.

import { $, el } from "./parts.js";

const NAMES = ["jobs", "collections", "models", "keys"];
const panels = {}; // by name: called with the panel when it is shown; may return what ends it
let end = () => {};
let shown = null;

export function preparePanels(given) {
  Object.assign(panels, given);
  for (const name of NAMES) tab(name).onclick = () => show(name);
  $("tabs").onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(NAMES[(NAMES.indexOf(shown) + step + NAMES.length) % NAMES.length]);
    tab(shown).focus();
  };
  $("open-collections").onclick = () => openSheet("collections");
  $("sheet-close").onclick = () => $("sheet").close();
  $("sheet").addEventListener("close", () => {
    end();
    end = () => {};
    shown = null;
    if (NAMES.includes(location.hash.slice(1))) place("");
  });
  $("sheet").addEventListener("click", (event) => event.target === $("sheet") && $("sheet").close()); // beside it
  addEventListener("hashchange", openFromAddress);
}

// ``#jobs`` in the address opens the jobs, and so on.
export function openFromAddress() {
  if (NAMES.includes(location.hash.slice(1))) openSheet(location.hash.slice(1));
}

export function openSheet(name) {
  if (!$("sheet").open) $("sheet").showModal();
  show(name);
  tab(name).focus();
}

const tab = (name) => $("tabs").querySelector(`[data-panel=${name}]`);
const place = (hash) => history.replaceState(history.state, "", location.pathname + location.search + hash);

function show(name) {
  if (name === shown) return;
  end();
  shown = name;
  place(`#${name}`);
  for (const each of NAMES) {
    tab(each).setAttribute("aria-selected", each === name);
    tab(each).tabIndex = each === name ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", tab(name).id);
  $("panel").replaceChildren();
  end = panels[name]($("panel")) || (() => {});
}

const turns = new WeakMap(); // of boxes: what comes late must not take the place of what was asked for after it

// Fills ``box`` with the elements that ``make`` resolves to; until then it says that it is loading, and why where it fails.
export async function fill(box, make) {
  const turn = {};
  turns.set(box, turn);
  const isLate = () => turns.get(box) !== turn;
  box.setAttribute("aria-busy", "true");
  if (!box.childElementCount) box.append(...Array.from({ length: 3 }, () => el("div", { className: "ghost line" })));
  try {
    const made = await make();
    while (box.matches(":active")) await new Promise((resolve) => setTimeout(resolve, 50)); // what is pressed must be there when it is let go
    if (!isLate()) keepPlace(box, () => box.replaceChildren(...made));
  } catch (error) {
    if (isLate()) return;
    box.replaceChildren(el("div", { className: "note failed", role: "alert" },
      el("h2", { textContent: "That did not work" }), el("p", { textContent: error.message }),
      el("button", { type: "button", className: "quiet", textContent: "Try again", onclick: () => fill(box, make) })));
  } finally {
    if (!isLate()) box.removeAttribute("aria-busy");
  }
}

// A panel whose code is fetched when somebody looks at it; ``begin`` gets that code and fills the panel.
export const fetched = (load, begin) => (panel) => {
  let isOver = false;
  let end = () => {};
  fill(panel, async () => {
    const code = await load();
    if (!isOver) end = begin(code, panel) || end;
    return []; // late by now: the panel is being filled
  });
  return () => {
    isOver = true;
    end();
  };
};

// Whoever is at a button does not lose the place when what is around it is drawn anew.
function keepPlace(box, change) {
  const wasInside = box !== document.activeElement && box.contains(document.activeElement);
  const { key } = document.activeElement.dataset;
  change();
  if (wasInside) ((key && box.querySelector(`[data-key="${CSS.escape(key)}"]`)) || box).focus();
}

export const empty = (title, text, ...actions) => el("div", { className: "note" },
  el("h2", { textContent: title }), el("p", { textContent: text }), ...actions);

export const chip = (text, kind = "") => el("span", { className: `chip ${kind}`, textContent: text });

// A button that shows why what it does went wrong, beside it. ``key`` finds it again after a change.
export function doing(text, key, act, className = "quiet") {
  const button = el("button", { type: "button", className, textContent: text, "data-key": key });
  button.onclick = async () => {
    const group = button.closest(".actions");
    group.querySelector(".error")?.remove();
    button.setAttribute("aria-disabled", "true");
    try {
      await act();
    } catch (error) {
      group.append(el("p", { className: "error", role: "alert", textContent: error.message }));
    } finally {
      button.removeAttribute("aria-disabled");
    }
  };
  return button;
}
