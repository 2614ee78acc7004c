// The form that captions a clip, the clips of a video, or a dropped file.

import { call } from "./api.js";
import { busyForm } from "./busy_form.js";
import { el, formatSpan } from "./dom.js";
import { modalitiesNote } from "./matches.js";
import { modelFor } from "./side_panel.js";

export const captionModel = () => modelFor("captioning");

// Returns a function that clears the captions.
export function prepareCaptioningForm(form, container, getBody, seek, countClips = () => 1) {
  const busy = busyForm(form, container);
  form.onsubmit = (event) => {
    event.preventDefault();
    busy.run(async (signal) => renderClips((await call("POST", "/v1/captions", getBody(), signal)).clips, seek, countClips()));
  };
  return () => {
    busy.clear();
    form.hidden = !captionModel();
  };
}

// The best caption of each clip.
function renderClips(clips, seek, count) {
  const texts = clips.map(({ captions: [{ text }] }) => el("span", { dir: "auto", textContent: text }));
  if (clips.length === 1) return { shown: [el("p", {}, texts[0]), ...modalitiesNote(clips[0].modalities)], message: texts[0].textContent };
  const items = clips.map(({ start, end }, index) => el("li", { className: "row" },
    el("button", { type: "button", className: "time-button", textContent: formatSpan(start, end), onclick: () => seek(start) }), texts[index]));
  const list = el("ol", { className: "captions", "aria-label": "Captions" }, ...items);
  if (clips.length >= count) return { shown: [list], message: `${clips.length} clips captioned.` };
  const message = `The first ${clips.length} of ${count} clips are captioned. Select a later clip to caption it.`;
  return { shown: [el("p", { className: "facts", textContent: message }), list], message };
}
