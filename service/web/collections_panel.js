// The collections, as the sheet shows them: what each holds and how it is searched, and what can be done with a whole one.

import { collectionPath, call } from "./api.js";
import { allCollections, openNewCollection, currentName } from "./collections.js";
import { checkbox, field, INDEX_KINDS, select } from "./fields.js";
import { startOperation, reembed, isUnfinished, listOperations, sleep, removeOperation, saveFile } from "./operations.js";
import { $, el, labelButton } from "./dom.js";
import { confirmAction } from "./confirm.js";
import { keyPermissions } from "./permissions.js";
import { chip, actionButton, emptyState, renderInto } from "./side_panel.js";
import { formatAge, count, joinFacts, formatBytes } from "./format.js";

const MAX_INDEX_POLLS = 5; // that an index which is not there yet is looked at again; small collections never need it

const OPERATION_NAMES = { backup: "Backup", export: "Export", reembed: "Embedding again" };

// ``page`` has what changes besides: ``reload()`` the collections, ``choose(name)`` another one.
export function showCollectionsPanel(panel, page) {
  let isClosed = false;
  let pollsLeft = MAX_INDEX_POLLS;
  const panelState = { again: null };
  const load = async () => {
    const permissions = await keyPermissions();
    const isAdmin = permissions.scopes.includes("admin");
    const [operations, models] = await Promise.all([
      isAdmin && permissions.collections === null ? listOperations() : [], call("GET", "/v1/models"), page.reload(),
    ]);
    const { collections, unreadable } = allCollections();
    if (collections.some(isBeingBuilt)) pollsLeft -= 1;
    if (operations.some(isUnfinished) || (collections.some(isBeingBuilt) && pollsLeft > 0)) sleep().then(() => isClosed || panelState.again());
    const context = { mine: permissions, isAdmin, works: operations, models: models.models, page, again: panelState.again };
    return [
      el("div", { className: "row" },
        el("p", { className: "facts", textContent: isAdmin ? "" : "The key of this tab may look at collections; making and changing them takes one with the scope admin." }),
        el("span", { className: "gap" }),
        isAdmin ? el("button", { type: "button", className: "strong", textContent: "New collection", "data-key": "new", onclick: openNewCollection }) : null),
      ...unreadable.map((name) => el("p", { className: "error", textContent: `${name} is damaged; the log of the service says more.` })),
      el("div", { className: "items" }, ...collections.map((collection) => collectionCard(collection, context))),
      ...(collections.length ? [] : [emptyState("No collections yet", isAdmin ? "Make one, then add videos or pictures to it." : "There is none that this key is for.")]),
    ];
  };
  panelState.again = () => isClosed || renderInto(panel, load);
  panelState.again();
  return () => (isClosed = true);
}

const isBeingBuilt = ({ index_kind: kind, index }) => kind !== "auto" && kind !== index.serving;

function collectionCard(collection, context) {
  const { name } = collection;
  const mayChange = context.isAdmin && (context.mine.collections === null || context.mine.collections.includes(name));
  const isOpen = name === currentName();
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: name }), isOpen ? chip("on the page") : null, collection.model_loaded ? null : chip("model not loaded", "bad")),
    el("p", { className: "facts", textContent: joinFacts(count(collection.videos, "video"), count(collection.clips, "clip"), `${formatBytes(collection.bytes)} on disk`, `made ${formatAge(collection.created_at)}`) }),
    el("p", { className: "facts", textContent: joinFacts(`model ${collection.bundle}`, `tokens as ${collection.token_encoding}`, indexText(collection)) }),
    el("div", { className: "actions" },
      isOpen ? null : actionButton("Show", `show ${name}`, () => { context.page.choose(name); $("sheet").close(); }),
      ...(mayChange ? changeButtons(collection, context) : [])),
    ...context.works.filter((operation) => operation.collection === name).map((operation) => operationRow(operation, context)));
}

function indexText(collection) {
  const { index: { serving, changed }, index_kind: kind } = collection;
  if (isBeingBuilt(collection)) return `searched by ${serving} until ${kind} is worth it and built`;
  const beside = serving !== "flat" && changed ? `, and ${count(changed, "new clip")} one by one` : "";
  return `searched by ${serving}${kind === "auto" ? " (automatic)" : ""}${beside}`;
}

function changeButtons(collection, { mine: permissions, models, page, again: reload }) {
  const { name } = collection;
  const isUnrestricted = permissions.collections === null; // operations need a key for all collections
  const others = models.filter((model) => model.state === "ready" && model.fingerprint !== collection.fingerprint);
  const button = (text, operation, className) => labelButton(name, actionButton(text, `${text} ${name}`, async () => (await operation()) !== null && reload(), className));
  return [
    button("Index…", async () => {
      const kind = select(INDEX_KINDS, collection.index_kind, { name: "index_kind" });
      const answers = await confirmAction({ title: `Index of ${name}`, text: "Another one is built beside the searches, which go on in the old one until then.", action: "Change", fields: [field("Kind of index", kind)] });
      return answers && call("PATCH", collectionPath(name), answers);
    }),
    isUnrestricted ? button("Back up", () => startOperation("backup", name)) : null,
    isUnrestricted ? button("Export…", async () => {
      const answers = await confirmAction({
        title: `Export ${name}`, text: "Two Parquet files, for DuckDB, pandas, Spark and others, or to import them elsewhere.", action: "Export",
        fields: [checkbox("tokens", "With what looking closely needs; many times as large"), checkbox("thumbnails", "With the clips’ pictures")],
      });
      return answers && startOperation("export", name, answers);
    }) : null,
    isUnrestricted && others.length ? button("Embed again…", async () => {
      const answers = await confirmAction({
        title: `Embed ${name} again`, text: "Every video is embedded by another model, from its file. Searches go on meanwhile.", action: "Embed again",
        fields: [
          field("Model", select(others.map((model) => [model.fingerprint, `${model.name} ${model.version}`]), null, { name: "model" })),
          checkbox("skip_missing", "Leave out videos whose files are gone"),
        ],
      });
      if (answers) reembed(name, page.added, answers);
      return answers;
    }) : null,
    button("Delete…", async () => {
      const answers = await confirmAction({
        title: `Delete ${name}?`, text: `${count(collection.videos, "video")} and ${count(collection.clips, "clip")} are gone for good, with the files that were uploaded. Files in folders of the machine stay.`,
        action: "Delete", isDangerous: true, word: name,
      });
      if (!answers) return null;
      await call("DELETE", collectionPath(name));
      await page.dropped(name);
      return answers;
    }, "quiet danger"),
  ];
}

function operationRow(operation, { again: reload }) {
  const meterFill = el("i");
  meterFill.style.setProperty("--share", operation.progress);
  const status = isUnfinished(operation) ? `${operation.state}, ${Math.round(100 * operation.progress)}%` : formatAge(operation.finished_at || operation.created_at);
  return el("div", { className: "work" },
    el("p", {}, `${OPERATION_NAMES[operation.kind]}, ${status}`),
    isUnfinished(operation) ? el("div", { className: "meter" }, meterFill) : null,
    operation.error ? el("p", { className: "error", textContent: operation.error }) : null,
    operation.media_not_included?.files ? el("p", { className: "facts" }, `${count(operation.media_not_included.files, "media file")}, ${formatBytes(operation.media_not_included.bytes)}, are not in it`) : null,
    el("div", { className: "actions" },
      ...operation.files.map((file) => actionButton(`Save ${file.name}, ${formatBytes(file.bytes)}`, `save ${file.url}`, () => saveFile(file))),
      labelButton(`${operation.kind} ${operation.id}`, actionButton(isUnfinished(operation) ? "Break off" : "Remove", `remove ${operation.id}`, async () => {
        await removeOperation(operation);
        reload();
      }))));
}
