// The form that shows what a phrase names: a heat map and a box over the frame.

import { call } from "./api.js";
import { busyForm } from "./busy_form.js";
import { $, el, formatPercent, formatTime, spokenNumbers, thumbnailAt } from "./dom.js";
import { modelFor } from "./side_panel.js";

const LIKELY = 0.3; // lower scores are of things that are probably not there

// The middle frame of the span is shown. Returns a function that clears the frame.
export function prepareGroundingForm(getSpan, getClip) {
  const form = busyForm($("grounding-form"), $("grounded-frame"));
  $("grounding-form").onsubmit = (event) => {
    event.preventDefault();
    const phrase = $("grounding-text").value.trim();
    if (!phrase) return $("grounding-text").focus();
    form.run(async (signal) => {
      const body = { ...getSpan(), phrases: [phrase], model: modelFor("grounding") };
      return renderFrame(await call("POST", "/v1/groundings", body, signal), getClip());
    });
  };
  return () => {
    form.clear();
    $("grounding-form").hidden = !modelFor("grounding");
    if (!$("grounding-text").value) $("grounding-text").value = $("query").value.trim();
  };
}

function renderFrame({ time, groundings: [{ phrase, score, box, heat_map: heatMap }] }, clip) {
  const percent = formatPercent(score);
  const message = score < LIKELY ? `Probably not there: ${phrase}, score ${percent}` : `${phrase}: score ${percent}`;
  const frame = el("img", { src: thumbnailAt(clip, time), alt: message });
  const outline = el("div", { className: "box" });
  const sides = { left: box.left, top: box.top, right: 1 - box.right, bottom: 1 - box.bottom };
  for (const [side, fraction] of Object.entries(sides)) outline.style[side] = `${100 * fraction}%`;
  const facts = el("p", { className: "facts", textContent: `${message} · ${formatTime(time)}` });
  return { shown: [el("div", { className: "grounded" }, frame, drawHeatMap(heatMap), outline), facts], message: spokenNumbers(message) };
}

// One pixel for each cell; the browser enlarges it smoothly.
function drawHeatMap(heatMap) {
  const canvas = el("canvas", { width: heatMap[0].length, height: heatMap.length, ariaHidden: "true" });
  const pixels = heatMap.flat().flatMap((value) => [255, 64, 0, 150 * value]);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels), canvas.width), 0, 0);
  return canvas;
}
