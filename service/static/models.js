// The models that serve: which there are, what each can do and how well, and which one is the default.

import { call } from "./api.js";
import { showModel } from "./default_model.js";
import { checkbox, field } from "./fields.js";
import { pause } from "./operations.js";
import { el, of } from "./parts.js";
import { question } from "./question.js";
import { may } from "./rights.js";
import { chip, doing, fill } from "./sheet.js";
import { facts } from "./words.js";

export function showModelsPanel(panel) {
  let isOver = false;
  const again = () => isOver || fill(panel, load);
  const load = async () => {
    const [{ models }, isAdmin] = await Promise.all([call("GET", "/v1/models"), may("admin")]);
    if (models.some((model) => model.state === "loading")) pause().then(again);
    showModel().catch(() => {});
    return [
      el("p", { className: "facts", textContent: `Each collection is searched by the model that filled it. ${isAdmin ? "" : "Adding and removing models takes a key with the scope admin."}` }),
      el("div", { className: "items" }, ...models.map((model) => card(model, isAdmin, again))),
      isAdmin ? adding(again) : null,
    ].filter(Boolean);
  };
  again();
  return () => (isOver = true);
}

const STATES = { ready: "good", loading: "live", failed: "bad" };

function card(model, isAdmin, again) {
  const called = model.name ? `${model.name} ${model.version}` : model.folder;
  const address = `/v1/models/${model.fingerprint}`;
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: called }), model.default ? chip("default") : null, chip(model.state, STATES[model.state])),
    model.error ? el("p", { className: "error", textContent: model.error }) : null,
    el("dl", {}, ...pairs({
      "Can do": model.tasks.join(", "),
      "Looks at": model.streams.map((s) => `${s.frames} ${s.frames > 1 ? "frames" : "frame"} of ${s.width}×${s.height}`).join(" and "),
      "Runs on": devices(model.engines),
      Precision: model.precision,
      "Trained on": model.training_data.join(", "),
      Licence: model.licence,
      Signature: model.signed_by ? `by the trusted key ${model.signed_by}` : "not looked at",
      Folder: model.folder,
      Fingerprint: model.fingerprint?.slice(0, 16),
    })),
    folded("How well it does", Object.keys(model.metrics).length, () => metrics(model)),
    folded("Where each graph runs", Object.keys(model.engines).length, () => table(["Graph", "Device", "Engine", "Why not the first choice"],
      Object.entries(model.engines).map(([graph, { engine, device, gpu_name: gpu, fallback }]) => [graph, facts(device, gpu), engine, fallback || "–"]))),
    folded("Model card", model.model_card, () => el("pre", { tabIndex: 0, textContent: model.model_card })),
    isAdmin && model.fingerprint ? el("div", { className: "actions" },
      model.default || model.state !== "ready" ? null : of(called, doing("Make it the default", `default ${model.fingerprint}`, async () => {
        await call("POST", `${address}/default`);
        await again();
      })),
      model.default ? null : of(called, doing("Remove…", `remove ${model.fingerprint}`, async () => {
        const told = await question({
          title: `Remove ${called}?`, text: "It serves no further request, and its memory is free once those under way are done. The bundle stays on the disk.",
          action: "Remove", isDangerous: true, fields: [checkbox("force", "Also where collections need it: they cannot be searched until it is added again")],
        });
        if (!told) return;
        await call("DELETE", `${address}${told.force ? "?force=true" : ""}`);
        await again();
      }, "quiet danger"))) : null);
}

function devices(engines) {
  const found = Object.values(engines);
  const fallbacks = found.filter((each) => each.fallback).length;
  const where = [...new Set(found.map((each) => facts(each.device, each.gpu_name)))].join(", ");
  return where && fallbacks ? `${where}; ${fallbacks} of ${found.length} graphs not where they were wanted` : where;
}

const pairs = (known) => Object.entries(known).flatMap(([name, value]) => [el("dt", { textContent: name }), el("dd", { textContent: value || "–" })]);

// Made when it is opened: cards are long.
function folded(text, isThere, make) {
  if (!isThere) return null;
  const box = el("details", {}, el("summary", { textContent: text }));
  box.addEventListener("toggle", () => box.append(make()), { once: true });
  return box;
}

const metrics = (model) => table(["Measured", "Value"], Object.entries(model.metrics).map(([name, value]) => [name, String(value)]));

const table = (heads, rows) => el("div", { className: "scrolls", tabIndex: 0, role: "region", "aria-label": heads[0] }, el("table", {},
  el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", textContent: text })))),
  el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", { textContent: text })))))));

function adding(again) {
  const folder = el("input", { required: true, autocomplete: "off", spellcheck: false, placeholder: "talks-2" });
  const add = doing("Add", "add", async () => {
    if (!folder.reportValidity()) return;
    await call("POST", "/v1/models", { folder: folder.value.trim() });
    await again();
  }, "strong");
  const form = el("form", { className: "item" },
    el("h3", { textContent: "Add a model" }),
    field("Folder of its bundle, on the service’s machine", folder),
    el("p", { className: "facts", textContent: "Below the folder that VITASCOPE_BUNDLES_ROOT names. It is checked and run once beside the others before it serves." }),
    el("div", { className: "actions" }, add));
  form.onsubmit = (event) => {
    event.preventDefault();
    add.click();
  };
  return form;
}
