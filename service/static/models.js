// The model that serves, and its card.

import { call } from "./api.js";
import { $, el } from "./parts.js";

export async function showModel() {
  const model = (await call("GET", "/v1/models")).models[0]; // the default
  if (model.state === "failed") throw new Error(`The model in ${model.folder} could not be loaded: ${model.error}`);
  const facts = {
    Version: model.version,
    "Can do": model.tasks.join(", "),
    "Looks at": model.streams.map((s) => `${s.frames} ${s.frames > 1 ? "frames" : "frame"} of ${s.width}×${s.height}`).join(" and "),
    "Trained on": model.training_data.join(", "),
    Licence: model.licence,
    Fingerprint: model.fingerprint.slice(0, 16),
    ...Object.fromEntries(Object.entries(model.metrics).map(([name, value]) => [name, String(value)])),
  };
  $("model").textContent = `Model: ${model.name}`;
  $("model").hidden = false;
  $("model-name").textContent = model.name;
  $("model-facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) =>
    [el("dt", { textContent: name }), el("dd", { textContent: value || "–" })]));
  $("model-card").textContent = model.model_card;
}

$("model").onclick = () => $("model-dialog").showModal();
