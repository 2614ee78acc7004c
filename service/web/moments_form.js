// The form that finds when something happens in a video: its best moments, and a curve over time.

import { call } from "./api.js";
import { busyForm } from "./busy_form.js";
import { $, el, formatPercent, formatSpan, formatTime, spokenNumbers } from "./dom.js";
import { modelFor } from "./side_panel.js";

const TOP = 5;
const [WIDTH, HEIGHT] = [600, 60]; // of the curve, in its own units

// ``seek(seconds)`` moves the player. Returns a function that clears the moments.
export function prepareMomentsForm(getSpan, seek) {
  const form = busyForm($("moments-form"), $("moments"));
  $("moments-form").onsubmit = (event) => {
    event.preventDefault();
    const text = $("moments-text").value.trim();
    if (!text) return $("moments-text").focus();
    form.run(async (signal) => {
      const body = { ...getSpan(), texts: [text], top: TOP, model: modelFor("moments") };
      return renderMoments(await call("POST", "/v1/moments", body, signal), seek);
    });
  };
  return () => {
    form.clear();
    $("moments-form").hidden = !modelFor("moments");
    if (!$("moments-text").value) $("moments-text").value = $("query").value.trim();
  };
}

function renderMoments({ start, end, times, results: [{ moments, saliency }] }, seek) {
  const likely = moments.filter(({ score }) => score >= moments[0].score / 2);
  if (!likely.length) return { shown: [el("p", { className: "facts", textContent: "No moments." })], message: "No moments." };
  const items = likely.map((moment) => el("li", {}, el("button", { type: "button", className: "time-button", onclick: () => seek(moment.start) },
    formatSpan(moment.start, moment.end), el("small", { textContent: formatPercent(moment.score) }))));
  const [best] = likely;
  const message = `Best moment: ${formatSpan(best.start, best.end, "to")}, score ${spokenNumbers(formatPercent(best.score))}`;
  const axis = el("p", { className: "facts row" }, formatTime(start), el("span", { className: "gap" }), formatTime(end));
  const parts = end > start ? [curve(start, end, times, saliency, likely, message, seek), axis] : [];
  return { shown: [...parts, el("ol", { className: "times", "aria-label": "Moments" }, ...items)], message };
}

// How likely the text is true of each second, with the moments behind; a click moves the player.
function curve(start, end, times, saliency, moments, label, seek) {
  const x = (seconds) => ((seconds - start) / (end - start)) * WIDTH;
  const heights = new Map(); // by whole unit, of which a long video has many times
  times.forEach((time, index) => heights.set(Math.round(x(time)), Math.max(saliency[index], heights.get(Math.round(x(time))) ?? 0)));
  const points = [...heights].map(([at, value]) => `${at},${(1 - value) * HEIGHT}`);
  const [first, last] = [points[0].split(",")[1], points.at(-1).split(",")[1]];
  const path = svg("path", { d: `M0,${HEIGHT} L0,${first} L${points.join(" L")} L${WIDTH},${last} L${WIDTH},${HEIGHT} Z` });
  const spans = moments.map((moment) => svg("rect", { x: x(moment.start), width: Math.max(1, x(moment.end) - x(moment.start)), height: HEIGHT }));
  const drawing = svg("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...spans, path);
  drawing.onclick = ({ clientX }) => {
    const { left, width } = drawing.getBoundingClientRect();
    seek(start + ((clientX - left) / width) * (end - start));
  };
  return drawing;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
