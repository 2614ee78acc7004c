// What the key of this tab may do, so that nothing is offered that the service would refuse.

import { call } from "./api.js";
import { keyHeaders } from "./keys.js";

let asked = null;
let askedWith;

export function rights() {
  const { Authorization: key } = keyHeaders();
  if (!asked || askedWith !== key) {
    askedWith = key;
    asked = call("GET", "/v1/keys/self");
    asked.catch(() => (asked = null)); // asked again next time
  }
  return asked;
}

// ``scope``: read, write or admin; without ``collection``: in all of them, as operations, keys and models need it.
export async function may(scope, collection = null) {
  const { scopes, collections } = await rights();
  return scopes.includes(scope) && (collections === null || collections.includes(collection));
}
