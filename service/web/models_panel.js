// The Models panel: tasks, metrics, devices and card of each model.

import { call, hasScope } from "./api.js";
import { allCollections } from "./collections.js";
import { confirmAction } from "./confirm.js";
import { checkbox, el, field, labelButton } from "./dom.js";
import { joinFacts } from "./format.js";
import { sleep } from "./operations.js";
import { actionButton, chip, renderInto, showModel } from "./side_panel.js";

export function showPanel(panel) {
  let isClosed = false;
  const reload = () => isClosed || renderInto(panel, load);
  const load = async () => {
    const [{ models }, isAdmin] = await Promise.all([call("GET", "/v1/models"), hasScope("admin")]);
    if (models.some((model) => model.state === "loading")) sleep().then(reload);
    showModel();
    return [
      el("p", { className: "facts", textContent: `Each collection is searched with the model that indexed it. ${isAdmin ? "" : "Adding and removing models requires the admin scope."}` }),
      el("div", { className: "items" }, ...models.map((model) => modelCard(model, isAdmin, reload))),
      isAdmin ? addForm(reload) : null,
    ].filter(Boolean);
  };
  reload();
  return () => (isClosed = true);
}

const STATES = { ready: "good", loading: "live", failed: "bad" };

function modelCard(model, isAdmin, reload) {
  const label = model.name ? `${model.name} ${model.version}` : model.folder;
  const path = `/v1/models/${model.fingerprint}`;
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: label }), model.default ? chip("default") : null, chip(model.state, STATES[model.state])),
    model.error ? el("p", { className: "error", textContent: model.error }) : null,
    el("dl", {}, ...definitionList({
      Tasks: model.tasks.join(", "),
      Inputs: model.streams.map((s) => `${s.frames} ${s.frames > 1 ? "frames" : "frame"} of ${s.width}×${s.height}`).join(" and "),
      Devices: devices(model.engines),
      Reranking: reranking(model),
      Precision: model.precision,
      "Training data": model.training_data.join(", "),
      Licence: model.licence,
      Signature: model.signed_by ? `trusted key ${model.signed_by}` : "not verified",
      Folder: model.folder,
      Fingerprint: model.fingerprint?.slice(0, 16),
    })),
    disclosure("Metrics", Object.keys(model.metrics).length, () => metrics(model)),
    disclosure("Devices by graph", Object.keys(model.engines).length, () => table(["Graph", "Device", "Engine", "Fallback reason"],
      Object.entries(model.engines).map(([graph, { engine, device, gpu_name: gpu, fallback }]) => [graph, joinFacts(device, gpu), engine, fallback || "–"]))),
    disclosure("Model card", model.model_card, () => el("pre", { tabIndex: 0, textContent: model.model_card })),
    isAdmin && model.fingerprint ? el("div", { className: "actions" },
      model.default || model.state !== "ready" ? null : labelButton(label, actionButton("Make default", `default ${model.fingerprint}`, async () => {
        await call("POST", `${path}/default`);
        await reload();
      })),
      model.default ? null : labelButton(label, actionButton("Remove…", `remove ${model.fingerprint}`, async () => {
        const answers = await confirmAction({
          title: `Remove ${label}?`, text: "The model stops serving new requests, and its memory is freed when current ones are done. The bundle stays on disk.",
          action: "Remove", isDangerous: true, fields: [checkbox("force", "Remove it even if collections use it (they cannot be searched until it is added again)")],
        });
        if (!answers) return;
        await call("DELETE", `${path}${answers.force ? "?force=true" : ""}`);
        await reload();
      }, "quiet danger"))) : null);
}

// The default, and where another one applies: in collections with sound.
function reranking({ default_rerank: usual, fingerprint }) {
  if (usual === null) return null;
  const bySound = allCollections().collections.find((collection) => collection.fingerprint === fingerprint && collection.default_rerank !== usual);
  const describe = (count) => (count ? `top ${count}` : "off");
  return `${describe(usual)} by default${bySound ? `, ${describe(bySound.default_rerank)} in collections with sound` : ""}`;
}

function devices(engines) {
  const graphs = Object.values(engines);
  const fallbacks = graphs.filter((graph) => graph.fallback).length;
  const places = [...new Set(graphs.map((graph) => joinFacts(graph.device, graph.gpu_name)))].join(", ");
  return places && fallbacks ? `${places}; ${fallbacks} of ${graphs.length} graphs on a fallback device` : places;
}

const definitionList = (facts) => Object.entries(facts).flatMap(([name, value]) => [el("dt", { textContent: name }), el("dd", { textContent: value || "–" })]);

// Built when opened: model cards are long.
function disclosure(text, hasContent, build) {
  if (!hasContent) return null;
  const element = el("details", {}, el("summary", { textContent: text }));
  element.addEventListener("toggle", () => element.append(build()), { once: true });
  return element;
}

const metrics = (model) => table(["Metric", "Value"], Object.entries(model.metrics).map(([name, value]) => [name, String(value)]));

const table = (headings, rows) => el("div", { className: "scrolls", tabIndex: 0, role: "region", "aria-label": headings[0] }, el("table", {},
  el("thead", {}, el("tr", {}, ...headings.map((text) => el("th", { scope: "col", textContent: text })))),
  el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", { textContent: text })))))));

function addForm(reload) {
  const folder = el("input", { required: true, autocomplete: "off", spellcheck: false, placeholder: "talks-2" });
  const add = actionButton("Add", "add", async () => {
    if (!folder.reportValidity()) return;
    await call("POST", "/v1/models", { folder: folder.value.trim() });
    await reload();
  }, "strong");
  const form = el("form", { className: "item" },
    el("h3", { textContent: "Add a model" }),
    field("Bundle folder on the server", folder),
    el("p", { className: "facts", textContent: "Relative to VITASCOPE_BUNDLES_ROOT. The bundle is verified and tested before it serves." }),
    el("div", { className: "actions" }, add));
  form.onsubmit = (event) => {
    event.preventDefault();
    add.click();
  };
  return form;
}
