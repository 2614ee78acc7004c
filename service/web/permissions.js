// The permissions of this tab's key.

import { call } from "./api.js";
import { keyHeaders } from "./api_key.js";

let pending = null;
let pendingKey;

export function keyPermissions() {
  const { Authorization: key } = keyHeaders();
  if (!pending || pendingKey !== key) {
    pendingKey = key;
    pending = call("GET", "/v1/keys/self");
    pending.catch(() => (pending = null)); // retry next time
  }
  return pending;
}

// ``scope``: read, write or admin. Without ``collection``: for all collections.
export async function hasScope(scope, collection = null) {
  const { scopes, collections } = await keyPermissions();
  return scopes.includes(scope) && (collections === null || collections.includes(collection));
}
