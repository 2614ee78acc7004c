// The default model's name, at the top of the page; it leads to all of them.

import { call } from "./api.js";
import { $ } from "./parts.js";
import { openSheet } from "./sheet.js";

export async function showModel() {
  const model = (await call("GET", "/v1/models")).models[0];
  $("model").textContent = model.state === "failed" ? "Model: failed" : `Model: ${model.name}`;
  $("model").classList.toggle("danger", model.state === "failed");
  $("model").hidden = false;
}

$("model").onclick = () => openSheet("models");
