// The Collections panel: contents, index, model, backups and exports.

import { call, collectionPath, keyPermissions } from "./api.js";
import { allCollections, currentName, openNewCollection } from "./collections.js";
import { confirmAction } from "./confirm.js";
import { $, checkbox, el, field, INDEX_KINDS, labelButton, select } from "./dom.js";
import { formatCount, formatAge, formatBytes, joinFacts } from "./format.js";
import { isUnfinished, listOperations, reembed, removeOperation, saveFile, sleep, startOperation } from "./operations.js";
import { actionButton, chip, emptyState, renderInto } from "./side_panel.js";

const MAX_INDEX_POLLS = 5; // polls while an index is being built

const OPERATION_NAMES = { backup: "Backup", export: "Export", reembed: "Re-embedding", transcribe: "Transcription", read_text: "Screen text", caption: "Captions" };

// ``page`` has callbacks: ``reload()`` the collections, ``choose(name)`` another one, ``added``, ``dropped``.
export function showPanel(panel, page) {
  let isClosed = false;
  let pollsLeft = MAX_INDEX_POLLS;
  const reload = () => isClosed || renderInto(panel, load);
  const load = async () => {
    const permissions = await keyPermissions();
    const isAdmin = permissions.scopes.includes("admin");
    const [operations, models] = await Promise.all([
      isAdmin && permissions.collections === null ? listOperations() : [], call("GET", "/v1/models"), page.reload(),
    ]);
    const { collections, unreadable } = allCollections();
    if (collections.some(isBeingBuilt)) pollsLeft -= 1;
    if (operations.some(isUnfinished) || (collections.some(isBeingBuilt) && pollsLeft > 0)) sleep().then(reload);
    const context = { permissions, isAdmin, operations, models: models.models, recognizers: models.recognizers, page, reload };
    return [
      el("div", { className: "row" },
        el("p", { className: "facts", textContent: isAdmin ? "" : "Your API key can view collections. Creating and changing them requires the admin scope." }),
        el("span", { className: "gap" }),
        isAdmin ? el("button", { type: "button", className: "strong", textContent: "New collection", "data-key": "new", onclick: openNewCollection }) : null),
      ...unreadable.map((name) => el("p", { className: "error", textContent: `${name} is damaged. See the service log for details.` })),
      el("div", { className: "items" }, ...collections.map((collection) => collectionCard(collection, context))),
      ...(collections.length ? [] : [emptyState("No collections yet", isAdmin ? "Create a collection, then add videos or images to it." : "Your API key has no access to any collection.")]),
    ];
  };
  reload();
  return () => (isClosed = true);
}

const isBeingBuilt = ({ index_kind: kind, index }) => kind !== "auto" && kind !== index.serving;

function collectionCard(collection, context) {
  const { name } = collection;
  const mayChange = context.isAdmin && (context.permissions.collections === null || context.permissions.collections.includes(name));
  const isOpen = name === currentName();
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: name }), isOpen ? chip("current") : null, collection.model_loaded ? null : chip("model not loaded", "bad")),
    el("p", { className: "facts", textContent: joinFacts(formatCount(collection.videos, "video"), formatCount(collection.clips, "clip"), `${formatBytes(collection.bytes)} on disk`, `created ${formatAge(collection.created_at)}`) }),
    el("p", { className: "facts", textContent: joinFacts(`model ${collection.bundle}`, `${collection.token_encoding} tokens`, indexText(collection)) }),
    el("div", { className: "actions" },
      isOpen ? null : actionButton("Show", `show ${name}`, () => { context.page.choose(name); $("sheet").close(); }),
      ...(mayChange ? changeButtons(collection, context) : [])),
    ...context.operations.filter((operation) => operation.collection === name).map((operation) => operationRow(operation, context)));
}

function indexText(collection) {
  const { index: { serving, changed }, index_kind: kind } = collection;
  if (isBeingBuilt(collection)) return `${serving} index; ${kind} index pending`;
  const unindexed = serving !== "flat" && changed ? `, ${formatCount(changed, "clip")} not indexed yet` : "";
  return `${serving} index${kind === "auto" ? " (automatic)" : ""}${unindexed}`;
}

function changeButtons(collection, { permissions, models, recognizers, page, reload }) {
  const { name } = collection;
  const isUnrestricted = permissions.collections === null; // operations need a key for all collections
  const others = models.filter((model) => model.state === "ready" && model.fingerprint !== collection.fingerprint);
  const captioners = models.filter(({ state, tasks }) => state === "ready" && tasks.includes("captioning"));
  const captioner = captioners.find(({ fingerprint }) => fingerprint === collection.fingerprint) || captioners[0];
  const canRecognize = (kind) => isUnrestricted && recognizers.some((recognizer) => recognizer.kind === kind && recognizer.state === "ready");
  const button = (text, operation, className) => labelButton(name, actionButton(text, `${text} ${name}`, async () => (await operation()) !== null && reload(), className));
  return [
    button("Index…", async () => {
      const kind = select(INDEX_KINDS, collection.index_kind, { name: "index_kind" });
      const answers = await confirmAction({ title: `Change the index of ${name}`, text: "A new index is built in the background. Searches use the old one until it is ready.", action: "Change", fields: [field("Index type", kind)] });
      return answers && call("PATCH", collectionPath(name), answers);
    }),
    isUnrestricted ? button("Back up", () => startOperation("backup", name)) : null,
    isUnrestricted ? button("Export…", async () => {
      const answers = await confirmAction({
        title: `Export ${name}`, text: "Two Parquet files, for DuckDB, pandas or Spark, or to import elsewhere.", action: "Export",
        fields: [checkbox("tokens", "Include visual tokens (for reranking; much larger)"), checkbox("thumbnails", "Include thumbnails")],
      });
      return answers && startOperation("export", name, answers);
    }) : null,
    isUnrestricted && others.length ? button("Re-embed…", async () => {
      const answers = await confirmAction({
        title: `Re-embed ${name}`, text: "Every video is embedded from its file with another model. Searches continue meanwhile.", action: "Re-embed",
        fields: [
          field("Model", select(others.map((model) => [model.fingerprint, `${model.name} ${model.version}`]), null, { name: "model" })),
          checkbox("skip_missing", "Skip videos whose files are missing"),
        ],
      });
      if (answers) reembed(name, page.added, answers);
      return answers;
    }) : null,
    canRecognize("speech") ? button("Transcribe", () => startOperation("transcribe", name)) : null,
    canRecognize("screen_text") ? button("Read screen text", () => startOperation("read_text", name)) : null,
    isUnrestricted && captioner ? button("Caption", () => startOperation("caption", name, { model: captioner.fingerprint })) : null,
    button("Delete…", async () => {
      const answers = await confirmAction({
        title: `Delete ${name}?`, text: `${formatCount(collection.videos, "video")} and ${formatCount(collection.clips, "clip")} will be deleted permanently, including uploaded files. Files in folders on the server are kept.`,
        action: "Delete", isDangerous: true, word: name,
      });
      if (!answers) return null;
      await call("DELETE", collectionPath(name));
      await page.dropped(name);
      return answers;
    }, "quiet danger"),
  ];
}

function operationRow(operation, { reload }) {
  const meterFill = el("i");
  meterFill.style.setProperty("--share", operation.progress);
  const status = isUnfinished(operation) ? `${operation.state}, ${Math.round(100 * operation.progress)}%` : formatAge(operation.finished_at || operation.created_at);
  return el("div", { className: "work" },
    el("p", {}, `${OPERATION_NAMES[operation.kind]}, ${status}`),
    isUnfinished(operation) ? el("div", { className: "meter" }, meterFill) : null,
    operation.error ? el("p", { className: "error", textContent: operation.error }) : null,
    operation.media_not_included?.files ? el("p", { className: "facts" }, `${formatCount(operation.media_not_included.files, "media file")}, ${formatBytes(operation.media_not_included.bytes)}, not included`) : null,
    el("div", { className: "actions" },
      ...operation.files.map((file) => actionButton(`Save ${file.name}, ${formatBytes(file.bytes)}`, `save ${file.url}`, () => saveFile(file))),
      labelButton(`${operation.kind} ${operation.id}`, actionButton(isUnfinished(operation) ? "Cancel" : "Remove", `remove ${operation.id}`, async () => {
        await removeOperation(operation);
        reload();
      }))));
}
