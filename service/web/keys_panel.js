// Keys: the one of this tab, and all of the service for those who may see them.

import { call } from "./api.js";
import { allCollections } from "./collections.js";
import { checkbox, field, select } from "./fields.js";
import { forgetKey } from "./api_key.js";
import { announce } from "./toasts.js";
import { el, labelButton } from "./dom.js";
import { confirmAction } from "./confirm.js";
import { keyPermissions } from "./permissions.js";
import { chip, actionButton, emptyState, renderInto } from "./side_panel.js";
import { formatAge, count, formatDate, joinFacts } from "./format.js";

const SCOPES = [
  ["read", "look, search, ask"],
  ["write", "add and delete videos"],
  ["admin", "collections, models, keys"],
];
const DAY = 86400; // seconds
const EXPIRIES = [["", "never ends"], [DAY, "1 day"], [30 * DAY, "30 days"], [90 * DAY, "90 days"], [365 * DAY, "1 year"]];

export function showKeysPanel(panel) {
  let createdKey = null; // a new key, shown until the panel is left
  const load = async () => {
    const ownKey = await keyPermissions();
    if (!ownKey.keys_required) {
      return [emptyState("Nobody is asked for a key", "This service was started without keys: whoever reaches it may do everything. Started without --no-keys, it asks for them, and they are kept here.")];
    }
    const ownCard = el("article", { className: "item" },
      el("div", { className: "row" }, el("h3", { textContent: ownKey.name }), chip("this tab")),
      el("p", { className: "facts", textContent: keyFacts(ownKey) }),
      el("div", { className: "actions" }, actionButton("Use another key", "other", () => {
        forgetKey();
        location.reload();
      })));
    if (!ownKey.scopes.includes("admin") || ownKey.collections !== null) {
      return [ownCard, emptyState("Only an admin sees keys", "Keys are made, listed and revoked with one that has the scope admin, for all collections; or by the command vitascope keys.")];
    }
    const { keys } = await call("GET", "/v1/keys");
    const isInactive = (key) => key.revoked_at !== null || (key.expires_at !== null && key.expires_at * 1000 < Date.now());
    const reload = () => renderInto(panel, load);
    const inactive = keys.filter(isInactive);
    return [
      ownCard,
      createdKey ? createdKeyCard(createdKey) : null,
      createForm(async (wanted) => {
        createdKey = await call("POST", "/v1/keys", wanted);
        announce(`The key ${createdKey.name} was made. It is shown only now.`);
        await reload();
        document.getElementById("new-key")?.focus();
      }),
      el("div", { className: "items" }, ...keys.filter((key) => !isInactive(key)).reverse().map((key) => keyCard(key, reload))),
      inactive.length ? el("details", {}, el("summary", { textContent: count(inactive.length, "key that was revoked or has expired", "keys that were revoked or have expired") }),
        el("div", { className: "items" }, ...inactive.reverse().map((key) => keyCard(key, reload)))) : null,
    ].filter(Boolean);
  };
  renderInto(panel, load);
}

const keyFacts = (key) => joinFacts(
  key.scopes.join(", "),
  key.collections === null ? "all collections" : key.collections.join(", "),
  key.rate ? `${key.rate} requests a second` : "",
  key.concurrency ? `${key.concurrency} at once` : "",
  key.expires_at ? `until ${formatDate(key.expires_at)}` : "",
);

function keyCard(key, reload) {
  const isRevoked = key.revoked_at !== null;
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: key.name }), isRevoked ? chip("revoked", "bad") : null),
    el("p", { className: "facts", textContent: keyFacts(key) }),
    el("p", { className: "facts", textContent: joinFacts(`made ${formatAge(key.created_at)}`, key.last_used_at ? `used ${formatAge(key.last_used_at)}` : "never used", key.id) }),
    el("div", { className: "actions" }, isRevoked ? null : labelButton(key.name, actionButton("Revoke…", `revoke ${key.id}`, async () => {
      const answers = await confirmAction({ title: `Revoke ${key.name}?`, text: "Whoever has it is refused from now on. It cannot be undone.", action: "Revoke", isDangerous: true });
      if (!answers) return;
      await call("DELETE", `/v1/keys/${key.id}`);
      await reload();
    }, "quiet danger"))));
}

function createdKeyCard(createdKey) {
  const text = el("input", { id: "new-key", readOnly: true, value: createdKey.key, spellcheck: false, "aria-label": `The key ${createdKey.name}`, onfocus: () => text.select() });
  const copy = el("button", { type: "button", className: "strong", textContent: "Copy" });
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(createdKey.key);
      copy.textContent = "Copied";
    } catch {
      text.select(); // where pages may not reach the clipboard, the person does
      copy.textContent = "Selected";
    }
    announce(copy.textContent);
  };
  return el("div", { className: "item once" },
    el("h3", { textContent: `The key ${createdKey.name}` }),
    el("p", { className: "facts", textContent: "It is shown only now. Whoever loses it makes another." }),
    el("div", { className: "row" }, text, copy));
}

function createForm(create) {
  const name = el("input", { required: true, maxLength: 100, autocomplete: "off", placeholder: "the portal" });
  const scopes = SCOPES.map(([scope, description]) => checkbox(scope, `${scope}: ${description}`, scope === "read"));
  const collections = allCollections().collections.map((each) => checkbox(each.name, each.name));
  const expiry = select(EXPIRIES);
  const rate = el("input", { type: "number", min: 0.001, max: 1e6, step: "any", placeholder: "as the settings say" });
  const concurrency = el("input", { type: "number", min: 1, max: 1e6, step: 1, placeholder: "as the settings say" });
  const error = el("p", { className: "error", role: "alert" });
  const checkedNames = (boxes) => boxes.map((box) => box.querySelector("input")).filter((input) => input.checked).map((input) => input.name);
  const form = el("form", {},
    field("What it is for", name),
    el("fieldset", {}, el("legend", { textContent: "What it may do" }), ...scopes),
    collections.length ? el("fieldset", {}, el("legend", { textContent: "For these collections; none chosen: for all" }), ...collections) : null,
    el("div", { className: "numbers" }, field("Good for", expiry), field("Requests a second", rate), field("Requests at once", concurrency)),
    error, el("button", { className: "strong", textContent: "Make the key" }));
  form.onsubmit = async (event) => {
    event.preventDefault();
    error.textContent = "";
    const number = (input) => (input.value ? Number(input.value) : null);
    const restricted = checkedNames(collections);
    try {
      await create({
        name: name.value.trim(), scopes: checkedNames(scopes), collections: restricted.length ? restricted : null,
        expires_in: number(expiry), rate: number(rate), concurrency: number(concurrency),
      });
    } catch (failure) {
      error.textContent = failure.message;
    }
  };
  return el("details", { className: "item" }, el("summary", { textContent: "Make a key", "data-key": "make" }), form);
}
