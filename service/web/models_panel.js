// The models that serve: which there are, what each can do and how well, and which one is the default.

import { call } from "./api.js";
import { showDefaultModel } from "./default_model.js";
import { checkbox, field } from "./fields.js";
import { sleep } from "./operations.js";
import { el, labelButton } from "./dom.js";
import { confirmAction } from "./confirm.js";
import { hasScope } from "./permissions.js";
import { chip, actionButton, renderInto } from "./side_panel.js";
import { joinFacts } from "./format.js";

export function showModelsPanel(panel) {
  let isClosed = false;
  const reload = () => isClosed || renderInto(panel, load);
  const load = async () => {
    const [{ models }, isAdmin] = await Promise.all([call("GET", "/v1/models"), hasScope("admin")]);
    if (models.some((model) => model.state === "loading")) sleep().then(reload);
    showDefaultModel().catch(() => {});
    return [
      el("p", { className: "facts", textContent: `Each collection is searched by the model that filled it. ${isAdmin ? "" : "Adding and removing models takes a key with the scope admin."}` }),
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
    disclosure("How well it does", Object.keys(model.metrics).length, () => metrics(model)),
    disclosure("Where each graph runs", Object.keys(model.engines).length, () => table(["Graph", "Device", "Engine", "Why not the first choice"],
      Object.entries(model.engines).map(([graph, { engine, device, gpu_name: gpu, fallback }]) => [graph, joinFacts(device, gpu), engine, fallback || "–"]))),
    disclosure("Model card", model.model_card, () => el("pre", { tabIndex: 0, textContent: model.model_card })),
    isAdmin && model.fingerprint ? el("div", { className: "actions" },
      model.default || model.state !== "ready" ? null : labelButton(label, actionButton("Make it the default", `default ${model.fingerprint}`, async () => {
        await call("POST", `${path}/default`);
        await reload();
      })),
      model.default ? null : labelButton(label, actionButton("Remove…", `remove ${model.fingerprint}`, async () => {
        const answers = await confirmAction({
          title: `Remove ${label}?`, text: "It serves no further request, and its memory is free once those under way are done. The bundle stays on the disk.",
          action: "Remove", isDangerous: true, fields: [checkbox("force", "Also where collections need it: they cannot be searched until it is added again")],
        });
        if (!answers) return;
        await call("DELETE", `${path}${answers.force ? "?force=true" : ""}`);
        await reload();
      }, "quiet danger"))) : null);
}

function devices(engines) {
  const graphs = Object.values(engines);
  const fallbacks = graphs.filter((each) => each.fallback).length;
  const places = [...new Set(graphs.map((each) => joinFacts(each.device, each.gpu_name)))].join(", ");
  return places && fallbacks ? `${places}; ${fallbacks} of ${graphs.length} graphs not where they were wanted` : places;
}

const definitionList = (facts) => Object.entries(facts).flatMap(([name, value]) => [el("dt", { textContent: name }), el("dd", { textContent: value || "–" })]);

// Made when it is opened: cards are long.
function disclosure(text, hasContent, build) {
  if (!hasContent) return null;
  const element = el("details", {}, el("summary", { textContent: text }));
  element.addEventListener("toggle", () => element.append(build()), { once: true });
  return element;
}

const metrics = (model) => table(["Measured", "Value"], Object.entries(model.metrics).map(([name, value]) => [name, String(value)]));

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
    field("Folder of its bundle, on the service’s machine", folder),
    el("p", { className: "facts", textContent: "Below the folder that VITASCOPE_BUNDLES_ROOT names. It is checked and run once beside the others before it serves." }),
    el("div", { className: "actions" }, add));
  form.onsubmit = (event) => {
    event.preventDefault();
    add.click();
  };
  return form;
}
