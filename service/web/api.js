// HTTP client for the service's API.

import { keyHeaders, mediaReady, promptForKey } from "./api_key.js";

class ApiError extends Error {
  constructor(problem, status, retryAfter = null) {
    super(problem.detail || problem.title || `The service responded with status ${status}.`);
    this.code = problem.code || "unknown";
    this.status = status;
    this.retryAfter = Number(retryAfter) || 0; // seconds from Retry-After
  }

  // Whether the request should be repeated later.
  get isBusy() {
    return this.status === 429 || this.status === 503;
  }
}

// For requests and imports without a response of the service, also where a proxy responds.
export function reportUnreachable(error) {
  throw error.name === "AbortError" ? error : new ApiError({ detail: "Cannot reach the service. Is it running?" }, 0);
}

// Send a request and return the response. Throws ApiError for an error status.
export async function request(method, path, { body, signal, headers } = {}) {
  await mediaReady;
  const authorization = keyHeaders();
  const response = await fetch(path, { method, signal, body, headers: { Accept: "application/json", ...headers, ...authorization } }).catch(reportUnreachable);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status !== 401) throw new ApiError(problem, response.status, response.headers.get("Retry-After"));
  await promptForKey(authorization.Authorization, problem.detail);
  return request(method, path, { body, signal, headers });
}

// ``body``: JSON-serializable, or FormData.
export async function call(method, path, body, signal) {
  const isJson = body !== undefined && !(body instanceof FormData);
  const options = isJson ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : { body };
  const response = await request(method, path, { ...options, signal });
  return response.status === 204 ? null : response.json().catch(reportUnreachable);
}

export const collectionPath = (collection, ...rest) => ["/v1/collections", encodeURIComponent(collection), ...rest].join("/");

// The permissions of this tab's key.
let permissions = null;
let permissionsKey;

export function keyPermissions() {
  const { Authorization: key } = keyHeaders();
  if (!permissions || permissionsKey !== key) {
    permissionsKey = key;
    permissions = call("GET", "/v1/keys/self");
    permissions.catch(() => (permissions = null)); // retry next time
  }
  return permissions;
}

// ``scope``: read, write or admin. Without ``collection``: for all collections.
export async function hasScope(scope, collection = null) {
  const { scopes, collections } = await keyPermissions();
  return scopes.includes(scope) && (collections === null || collections.includes(collection));
}

// Upload with XMLHttpRequest, because fetch reports no progress. ``onProgress`` gets bytes sent and total.
// Resolves to { video, created }, or to { job } if indexing continues in the background.
export function upload(collection, file, segmentation, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("file", file);
    form.append("segmentation", JSON.stringify(segmentation));
    const xhr = new XMLHttpRequest();
    xhr.open("POST", collectionPath(collection, "videos"));
    xhr.setRequestHeader("Prefer", "respond-async, wait=20");
    for (const [name, value] of Object.entries(keyHeaders())) xhr.setRequestHeader(name, value);
    xhr.responseType = "json";
    xhr.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded, event.total);
    xhr.onerror = () => reject(new ApiError({ detail: "Upload interrupted." }, 0));
    xhr.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    xhr.onload = () => {
      const body = xhr.response || {};
      if (xhr.status === 202) resolve({ job: body });
      else if (xhr.status < 300) resolve({ video: body, created: xhr.status === 201 });
      else reject(new ApiError(body, xhr.status, xhr.getResponseHeader("Retry-After")));
    };
    signal.addEventListener("abort", () => xhr.abort());
    xhr.send(form);
  });
}
