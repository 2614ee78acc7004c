// What the key of this tab may do, so that nothing is offered that the service would refuse.

import { call } from "./api.js";
import { keyHeaders } from "./api_key.js";

let pending = null;
let pendingKey;

export function keyPermissions() {
  const { Authorization: key } = keyHeaders();
  if (!pending || pendingKey !== key) {
    pendingKey = key;
    pending = call("GET", "/v1/keys/self");
    pending.catch(() => (pending = null)); // asked again next time
  }
  return pending;
}

// ``scope``: read, write or admin; without ``collection``: in all of them, as operations, keys and models need it.
export async function hasScope(scope, collection = null) {
  const { scopes, collections } = await keyPermissions();
  return scopes.includes(scope) && (collections === null || collections.includes(collection));
}
