// The default model's name, at the top of the page; it leads to all of them.

import { call } from "./api.js";
import { $ } from "./dom.js";
import { openPanel } from "./side_panel.js";

export async function showDefaultModel() {
  const model = (await call("GET", "/v1/models")).models[0];
  $("model").textContent = model.state === "failed" ? "Model: failed" : `Model: ${model.name}`;
  $("model").classList.toggle("danger", model.state === "failed");
  $("model").hidden = false;
}

$("model").onclick = () => openPanel("models");
