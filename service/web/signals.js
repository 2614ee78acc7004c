// Signals of a search: their names, and chips that switch them on and off.

import { currentCollection } from "./collections.js";
import { $, el } from "./dom.js";
import { hasWords } from "./facets.js";

const SIGNALS = {
  visual: ["Picture", "Visual content"],
  audio: ["Sound", "Audio content"],
  speech: ["Speech", "Spoken words"],
  screen_text: ["Screen text", "Words on screen"],
  caption: ["Caption", "Generated captions"],
  name: ["Name", "Titles, file and folder names"],
};
let switchedOff = new Set();

export const signalName = (signal) => SIGNALS[signal][0];

const hasSignal = (signal) => (currentCollection()?.signals || []).includes(signal);

// Collections have the signals speech, screen text and caption before they have such texts; then no chip is shown.
const shownSignals = () => Object.keys(SIGNALS).filter((signal) => hasSignal(signal) && (!["speech", "screen_text", "caption"].includes(signal) || hasWords(signal)));

// The signals that are switched on; null if all are. A query without text has only visual and audio.
export function chosenSignals(isText = true) {
  const available = Object.keys(SIGNALS).filter((signal) => hasSignal(signal) && (isText || ["visual", "audio"].includes(signal)));
  const chosen = available.filter((signal) => !switchedOff.has(signal));
  return chosen.length && chosen.length < available.length ? chosen : null;
}

// ``names``: signals to switch on; null, or no known name: all.
export const setSignals = (names) => (switchedOff = new Set(names?.some((name) => name in SIGNALS) ? Object.keys(SIGNALS).filter((signal) => !names.includes(signal)) : []));

// Show the chips of the current collection. ``onChange()`` is called after a click.
export function showSignals(onChange) {
  const shown = shownSignals();
  const labels = shown.map(signalName).join();
  const chips = $("signals").querySelector(".facets");
  $("signals").hidden = shown.length < 2;
  const kinds = ["image", "video", ...(hasSignal("audio") ? ["sound"] : [])].join(", ").replace(/, (\w+)$/, " or $1");
  $("like").title = `Search by ${kinds}`;
  $("like").setAttribute("aria-label", `Search by ${kinds}`);
  if (chips.dataset.signals !== labels) {
    chips.dataset.signals = labels;
    chips.replaceChildren(...shown.map((signal) => el("button", {
      type: "button", className: "toggle", textContent: signalName(signal), title: SIGNALS[signal][1], value: signal, onclick: () => {
        toggleSignal(signal);
        showSignals(onChange);
        onChange();
      },
    })));
  }
  for (const chip of chips.children) chip.setAttribute("aria-pressed", String(!switchedOff.has(chip.value)));
}

// Switching off the last signal switches all on, as a search needs one.
function toggleSignal(signal) {
  if (!switchedOff.delete(signal)) switchedOff.add(signal);
  if (shownSignals().every((shown) => switchedOff.has(shown))) setSignals(null);
}
