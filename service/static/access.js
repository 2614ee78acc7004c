// Keys: the one of this tab, and all of the service for those who may see them.

import { call } from "./api.js";
import { allCollections } from "./collections.js";
import { checkbox, field, select } from "./fields.js";
import { forgetKey } from "./keys.js";
import { announce } from "./notices.js";
import { el, of } from "./parts.js";
import { question } from "./question.js";
import { rights } from "./rights.js";
import { chip, doing, empty, fill } from "./sheet.js";
import { ago, count, day, facts } from "./words.js";

const SCOPES = [
  ["read", "look, search, ask"],
  ["write", "add and delete videos"],
  ["admin", "collections, models, keys"],
];
const DAY = 86400; // seconds
const LASTS = [["", "never ends"], [DAY, "1 day"], [30 * DAY, "30 days"], [90 * DAY, "90 days"], [365 * DAY, "1 year"]];

export function showKeysPanel(panel) {
  let made = null; // a new key, shown until the panel is left
  const load = async () => {
    const mine = await rights();
    if (!mine.keys_required) {
      return [empty("Nobody is asked for a key", "This service was started without keys: whoever reaches it may do everything. Started without --no-keys, it asks for them, and they are kept here.")];
    }
    const own = el("article", { className: "item" },
      el("div", { className: "row" }, el("h3", { textContent: mine.name }), chip("this tab")),
      el("p", { className: "facts", textContent: described(mine) }),
      el("div", { className: "actions" }, doing("Use another key", "other", () => {
        forgetKey();
        location.reload();
      })));
    if (!mine.scopes.includes("admin") || mine.collections !== null) {
      return [own, empty("Only an admin sees keys", "Keys are made, listed and revoked with one that has the scope admin, for all collections; or by the command vitascope keys.")];
    }
    const { keys } = await call("GET", "/v1/keys");
    const isOver = (key) => key.revoked_at !== null || (key.expires_at !== null && key.expires_at * 1000 < Date.now());
    const again = () => fill(panel, load);
    const gone = keys.filter(isOver);
    return [
      own,
      made ? shownOnce(made) : null,
      form(async (wanted) => {
        made = await call("POST", "/v1/keys", wanted);
        announce(`The key ${made.name} was made. It is shown only now.`);
        await again();
        document.getElementById("new-key")?.focus();
      }),
      el("div", { className: "items" }, ...keys.filter((key) => !isOver(key)).reverse().map((key) => card(key, again))),
      gone.length ? el("details", {}, el("summary", { textContent: count(gone.length, "key that was revoked or has expired", "keys that were revoked or have expired") }),
        el("div", { className: "items" }, ...gone.reverse().map((key) => card(key, again)))) : null,
    ].filter(Boolean);
  };
  fill(panel, load);
}

const described = (key) => facts(
  key.scopes.join(", "),
  key.collections === null ? "all collections" : key.collections.join(", "),
  key.rate ? `${key.rate} requests a second` : "",
  key.concurrency ? `${key.concurrency} at once` : "",
  key.expires_at ? `until ${day(key.expires_at)}` : "",
);

function card(key, again) {
  const isRevoked = key.revoked_at !== null;
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: key.name }), isRevoked ? chip("revoked", "bad") : null),
    el("p", { className: "facts", textContent: described(key) }),
    el("p", { className: "facts", textContent: facts(`made ${ago(key.created_at)}`, key.last_used_at ? `used ${ago(key.last_used_at)}` : "never used", key.id) }),
    el("div", { className: "actions" }, isRevoked ? null : of(key.name, doing("Revoke…", `revoke ${key.id}`, async () => {
      const told = await question({ title: `Revoke ${key.name}?`, text: "Whoever has it is refused from now on. It cannot be undone.", action: "Revoke", isDangerous: true });
      if (!told) return;
      await call("DELETE", `/v1/keys/${key.id}`);
      await again();
    }, "quiet danger"))));
}

function shownOnce(made) {
  const text = el("input", { id: "new-key", readOnly: true, value: made.key, spellcheck: false, "aria-label": `The key ${made.name}`, onfocus: () => text.select() });
  const copy = el("button", { type: "button", className: "strong", textContent: "Copy" });
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(made.key);
      copy.textContent = "Copied";
    } catch {
      text.select(); // where pages may not reach the clipboard, the person does
      copy.textContent = "Selected";
    }
    announce(copy.textContent);
  };
  return el("div", { className: "item once" },
    el("h3", { textContent: `The key ${made.name}` }),
    el("p", { className: "facts", textContent: "It is shown only now. Whoever loses it makes another." }),
    el("div", { className: "row" }, text, copy));
}

function form(make) {
  const name = el("input", { required: true, maxLength: 100, autocomplete: "off", placeholder: "the portal" });
  const scopes = SCOPES.map(([scope, what]) => checkbox(scope, `${scope}: ${what}`, scope === "read"));
  const collections = allCollections().collections.map((each) => checkbox(each.name, each.name));
  const lasts = select(LASTS);
  const rate = el("input", { type: "number", min: 0.001, max: 1e6, step: "any", placeholder: "as the settings say" });
  const concurrency = el("input", { type: "number", min: 1, max: 1e6, step: 1, placeholder: "as the settings say" });
  const error = el("p", { className: "error", role: "alert" });
  const checked = (boxes) => boxes.map((box) => box.querySelector("input")).filter((input) => input.checked).map((input) => input.name);
  const inside = el("form", {},
    field("What it is for", name),
    el("fieldset", {}, el("legend", { textContent: "What it may do" }), ...scopes),
    collections.length ? el("fieldset", {}, el("legend", { textContent: "For these collections; none chosen: for all" }), ...collections) : null,
    el("div", { className: "numbers" }, field("Good for", lasts), field("Requests a second", rate), field("Requests at once", concurrency)),
    error, el("button", { className: "strong", textContent: "Make the key" }));
  inside.onsubmit = async (event) => {
    event.preventDefault();
    error.textContent = "";
    const number = (input) => (input.value ? Number(input.value) : null);
    const only = checked(collections);
    try {
      await make({
        name: name.value.trim(), scopes: checked(scopes), collections: only.length ? only : null,
        expires_in: number(lasts), rate: number(rate), concurrency: number(concurrency),
      });
    } catch (failure) {
      error.textContent = failure.message;
    }
  };
  return el("details", { className: "item" }, el("summary", { textContent: "Make a key", "data-key": "make" }), inside);
}
