// The Keys panel: this tab's key, and for admins all keys.

import { call, keyPermissions } from "./api.js";
import { forgetKey } from "./api_key.js";
import { allCollections } from "./collections.js";
import { confirmAction } from "./confirm.js";
import { checkbox, el, field, labelButton, select } from "./dom.js";
import { formatCount, formatAge, formatDate, joinFacts } from "./format.js";
import { actionButton, chip, emptyState, renderInto } from "./side_panel.js";
import { announce } from "./toasts.js";

const SCOPES = [
  ["read", "view, search, ask"],
  ["write", "add and delete videos"],
  ["admin", "collections, models, keys"],
];
const DAY = 86400; // seconds
const EXPIRIES = [["", "never"], [DAY, "1 day"], [30 * DAY, "30 days"], [90 * DAY, "90 days"], [365 * DAY, "1 year"]];

export function showPanel(panel) {
  let createdKey = null; // a new key, shown until the panel is closed
  const load = async () => {
    const ownKey = await keyPermissions();
    if (!ownKey.keys_required) {
      return [emptyState("API keys are off", "The service was started with --no-keys, so anyone who can reach it has full access. Start it without --no-keys to require API keys.")];
    }
    const ownCard = el("article", { className: "item" },
      el("div", { className: "row" }, el("h3", { textContent: ownKey.name }), chip("this tab")),
      el("p", { className: "facts", textContent: keyFacts(ownKey) }),
      el("div", { className: "actions" }, actionButton("Change key", "other", () => {
        forgetKey();
        location.reload();
      })));
    if (!ownKey.scopes.includes("admin") || ownKey.collections !== null) {
      return [ownCard, emptyState("Admin key required", "Managing keys requires a key with the admin scope for all collections, or the command vitascope keys.")];
    }
    const { keys } = await call("GET", "/v1/keys");
    const isInactive = (key) => key.revoked_at !== null || (key.expires_at !== null && key.expires_at * 1000 < Date.now());
    const reload = () => renderInto(panel, load);
    const inactive = keys.filter(isInactive);
    return [
      ownCard,
      createdKey ? createdKeyCard(createdKey) : null,
      createForm(async (newKey) => {
        createdKey = await call("POST", "/v1/keys", newKey);
        announce(`Key ${createdKey.name} created. Copy it now; it is not shown again.`);
        await reload();
        document.getElementById("new-key")?.focus();
      }),
      el("div", { className: "items" }, ...keys.filter((key) => !isInactive(key)).reverse().map((key) => keyCard(key, reload))),
      inactive.length ? el("details", {}, el("summary", { textContent: formatCount(inactive.length, "revoked or expired key") }),
        el("div", { className: "items" }, ...inactive.reverse().map((key) => keyCard(key, reload)))) : null,
    ].filter(Boolean);
  };
  renderInto(panel, load);
}

const keyFacts = (key) => joinFacts(
  key.scopes.join(", "),
  key.collections === null ? "all collections" : key.collections.join(", "),
  key.rate ? `${key.rate} requests/s` : "",
  key.concurrency ? `${key.concurrency} concurrent` : "",
  key.expires_at ? `expires ${formatDate(key.expires_at)}` : "",
);

function keyCard(key, reload) {
  const isRevoked = key.revoked_at !== null;
  return el("article", { className: "item" },
    el("div", { className: "row" }, el("h3", { textContent: key.name }), isRevoked ? chip("revoked", "bad") : null),
    el("p", { className: "facts", textContent: keyFacts(key) }),
    el("p", { className: "facts", textContent: joinFacts(`created ${formatAge(key.created_at)}`, key.last_used_at ? `last used ${formatAge(key.last_used_at)}` : "never used", key.id) }),
    el("div", { className: "actions" }, isRevoked ? null : labelButton(key.name, actionButton("Revoke…", `revoke ${key.id}`, async () => {
      const answers = await confirmAction({ title: `Revoke ${key.name}?`, text: "Clients that use it lose access at once. This cannot be undone.", action: "Revoke", isDangerous: true });
      if (!answers) return;
      await call("DELETE", `/v1/keys/${key.id}`);
      await reload();
    }, "quiet danger"))));
}

function createdKeyCard(createdKey) {
  const text = el("input", { id: "new-key", readOnly: true, value: createdKey.key, spellcheck: false, "aria-label": `Key ${createdKey.name}`, onfocus: () => text.select() });
  const copy = el("button", { type: "button", className: "strong", textContent: "Copy" });
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(createdKey.key);
      copy.textContent = "Copied";
    } catch {
      text.select(); // no clipboard access: the user can copy the selection
      copy.textContent = "Selected";
    }
    announce(copy.textContent);
  };
  return el("div", { className: "item new-key" },
    el("h3", { textContent: `Key ${createdKey.name}` }),
    el("p", { className: "facts", textContent: "Copy it now; it is not shown again." }),
    el("div", { className: "row" }, text, copy));
}

function createForm(create) {
  const name = el("input", { required: true, maxLength: 100, autocomplete: "off", placeholder: "e.g. web portal" });
  const scopes = SCOPES.map(([scope, description]) => checkbox(scope, `${scope}: ${description}`, scope === "read"));
  const collections = allCollections().collections.map((collection) => checkbox(collection.name, collection.name));
  const expiry = select(EXPIRIES);
  const rate = el("input", { type: "number", min: 0.001, max: 1e6, step: "any", placeholder: "default" });
  const concurrency = el("input", { type: "number", min: 1, max: 1e6, step: 1, placeholder: "default" });
  const error = el("p", { className: "error", role: "alert" });
  const checkedNames = (boxes) => boxes.map((box) => box.querySelector("input")).filter((input) => input.checked).map((input) => input.name);
  const form = el("form", {},
    field("Name", name),
    el("fieldset", {}, el("legend", { textContent: "Scopes" }), ...scopes),
    collections.length ? el("fieldset", {}, el("legend", { textContent: "Collections (none selected: all)" }), ...collections) : null,
    el("div", { className: "numbers" }, field("Expires after", expiry), field("Requests per second", rate), field("Concurrent requests", concurrency)),
    error, el("button", { className: "strong", textContent: "Create key" }));
  form.onsubmit = async (event) => {
    event.preventDefault();
    error.textContent = checkedNames(scopes).length ? "" : "Select at least one scope.";
    if (error.textContent) return;
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
  return el("details", { className: "item" }, el("summary", { textContent: "Create a key", "data-key": "make" }), form);
}
