// The collections, as the sheet shows them: what each holds and how it is searched, and what can be done with a whole one.

import { at, call } from "./api.js";
import { allCollections, askForName, chosenName } from "./collections.js";
import { checkbox, field, INDEX_KINDS, select } from "./fields.js";
import { begin, embedAgain, isUnderWay, operations, pause, remove, save } from "./operations.js";
import { $, el, of } from "./parts.js";
import { question } from "./question.js";
import { rights } from "./rights.js";
import { chip, doing, empty, fill } from "./sheet.js";
import { ago, count, facts, size } from "./words.js";

const ROUNDS = 5; // that an index which is not there yet is looked at again; small collections never need it

const WORK = { backup: "Backup", export: "Export", reembed: "Embedding again" };

// ``page`` has what changes besides: ``reload()`` the collections, ``choose(name)`` another one.
export function showCollectionsPanel(panel, page) {
  let isOver = false;
  let rounds = ROUNDS;
  const shown = { again: null };
  const load = async () => {
    const mine = await rights();
    const isAdmin = mine.scopes.includes("admin");
    const [works, models] = await Promise.all([
      isAdmin && mine.collections === null ? operations() : [], call("GET", "/v1/models"), page.reload(),
    ]);
    const { collections, unreadable } = allCollections();
    if (collections.some(isBeingBuilt)) rounds -= 1;
    if (works.some(isUnderWay) || (collections.some(isBeingBuilt) && rounds > 0)) pause().then(() => isOver || shown.again());
    const about = { mine, isAdmin, works, models: models.models, page, again: shown.again };
    return [
      el("div", { className: "row" },
        el("p", { className: "facts", textContent: isAdmin ? "" : "The key of this tab may look at collections; making and changing them takes one with the scope admin." }),
        el("span", { className: "gap" }),
        isAdmin ? el("button", { type: "button", className: "strong", textContent: "New collection", "data-key": "new", onclick: askForName }) : null),
      ...unreadable.map((name) => el("p", { className: "error", textContent: `${name} is damaged; the log of the service says more.` })),
      el("div", { className: "items" }, ...collections.map((collection) => card(collection, about))),
      ...(collections.length ? [] : [empty("No collections yet", isAdmin ? "Make one, then add videos or pictures to it." : "There is none that this key is for.")]),
    ];
  };
  shown.again = () => isOver || fill(panel, load);
  shown.again();
  return () => (isOver = true);
}

const isBeingBuilt = ({ index_kind: kind, index }) => kind !== "auto" && kind !== index.serving;

function card(collection, about) {
  const { name } = collection;
  const mayChange = about.isAdmin && (about.mine.collections === null || about.mine.collections.includes(name));
  const isOpen = name === chosenName();
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: name }), isOpen ? chip("on the page") : null, collection.model_loaded ? null : chip("model not loaded", "bad")),
    el("p", { className: "facts", textContent: facts(count(collection.videos, "video"), count(collection.clips, "clip"), `${size(collection.bytes)} on disk`, `made ${ago(collection.created_at)}`) }),
    el("p", { className: "facts", textContent: facts(`model ${collection.bundle}`, `tokens as ${collection.token_encoding}`, searched(collection)) }),
    el("div", { className: "actions" },
      isOpen ? null : doing("Show", `show ${name}`, () => { about.page.choose(name); $("sheet").close(); }),
      ...(mayChange ? changes(collection, about) : [])),
    ...about.works.filter((work) => work.collection === name).map((work) => workLine(work, about)));
}

function searched(collection) {
  const { index: { serving, changed }, index_kind: kind } = collection;
  if (isBeingBuilt(collection)) return `searched by ${serving} until ${kind} is worth it and built`;
  const beside = serving !== "flat" && changed ? `, and ${count(changed, "new clip")} one by one` : "";
  return `searched by ${serving}${kind === "auto" ? " (automatic)" : ""}${beside}`;
}

function changes(collection, { mine, models, page, again }) {
  const { name } = collection;
  const whole = mine.collections === null; // operations need a key for all collections
  const others = models.filter((model) => model.state === "ready" && model.fingerprint !== collection.fingerprint);
  const act = (text, work, className) => of(name, doing(text, `${text} ${name}`, async () => (await work()) !== null && again(), className));
  return [
    act("Index…", async () => {
      const kind = select(INDEX_KINDS, collection.index_kind, { name: "index_kind" });
      const told = await question({ title: `Index of ${name}`, text: "Another one is built beside the searches, which go on in the old one until then.", action: "Change", fields: [field("Kind of index", kind)] });
      return told && call("PATCH", at(name), told);
    }),
    whole ? act("Back up", () => begin("backup", name)) : null,
    whole ? act("Export…", async () => {
      const told = await question({
        title: `Export ${name}`, text: "Two Parquet files, for DuckDB, pandas, Spark and others, or to import them elsewhere.", action: "Export",
        fields: [checkbox("tokens", "With what looking closely needs; many times as large"), checkbox("thumbnails", "With the clips’ pictures")],
      });
      return told && begin("export", name, told);
    }) : null,
    whole && others.length ? act("Embed again…", async () => {
      const told = await question({
        title: `Embed ${name} again`, text: "Every video is embedded by another model, from its file. Searches go on meanwhile.", action: "Embed again",
        fields: [
          field("Model", select(others.map((model) => [model.fingerprint, `${model.name} ${model.version}`]), null, { name: "model" })),
          checkbox("skip_missing", "Leave out videos whose files are gone"),
        ],
      });
      if (told) embedAgain(name, page.added, told);
      return told;
    }) : null,
    act("Delete…", async () => {
      const told = await question({
        title: `Delete ${name}?`, text: `${count(collection.videos, "video")} and ${count(collection.clips, "clip")} are gone for good, with the files that were uploaded. Files in folders of the machine stay.`,
        action: "Delete", isDangerous: true, word: name,
      });
      if (!told) return null;
      await call("DELETE", at(name));
      await page.dropped(name);
      return told;
    }, "quiet danger"),
  ];
}

function workLine(work, { again }) {
  const fillOf = el("i");
  fillOf.style.setProperty("--share", work.progress);
  const what = isUnderWay(work) ? `${work.state}, ${Math.round(100 * work.progress)}%` : ago(work.finished_at || work.created_at);
  return el("div", { className: "work" },
    el("p", {}, `${WORK[work.kind]}, ${what}`),
    isUnderWay(work) ? el("div", { className: "meter" }, fillOf) : null,
    work.error ? el("p", { className: "error", textContent: work.error }) : null,
    work.media_not_included?.files ? el("p", { className: "facts" }, `${count(work.media_not_included.files, "media file")}, ${size(work.media_not_included.bytes)}, are not in it`) : null,
    el("div", { className: "actions" },
      ...work.files.map((file) => doing(`Save ${file.name}, ${size(file.bytes)}`, `save ${file.url}`, () => save(file))),
      of(`${work.kind} ${work.id}`, doing(isUnderWay(work) ? "Break off" : "Remove", `remove ${work.id}`, async () => {
        await remove(work);
        again();
      }))));
}
