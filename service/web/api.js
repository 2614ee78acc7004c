// The service's interface, as far as the page needs it.

import { promptForKey, keyHeaders, mediaReady } from "./api_key.js";

export class ApiError extends Error {
  constructor(problem, status, retryAfter = null) {
    super(problem.detail || problem.title || `The service answered ${status}.`);
    this.code = problem.code || "unknown";
    this.status = status;
    this.wait = Number(retryAfter) || 0; // seconds after which the service wants to be asked again
  }

  // Whether the service only wants to be asked later.
  get isBusy() {
    return this.status === 429 || this.status === 503;
  }
}

// The answer as it comes; rejects with a Failure where it is an error.
export async function request(method, path, { body, signal, headers } = {}) {
  await mediaReady;
  const key = keyHeaders();
  let response;
  try {
    response = await fetch(path, { method, signal, body, headers: { Accept: "application/json", ...headers, ...key } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ detail: "The service cannot be reached. Is it running?", code: "unreachable" }, 0);
  }
  if (response.status === 401) {
    await promptForKey(key.Authorization);
    return request(method, path, { body, signal, headers });
  }
  if (response.ok) return response;
  throw new ApiError(await response.json().catch(() => ({})), response.status, response.headers.get("Retry-After"));
}

// ``body``: what becomes JSON, or a form.
export async function call(method, path, body, signal) {
  const isJson = body !== undefined && !(body instanceof FormData);
  const options = isJson ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : { body };
  const response = await request(method, path, { ...options, signal });
  return response.status === 204 ? null : response.json().catch(() => ({}));
}

export const collectionPath = (collection, ...rest) => ["/v1/collections", encodeURIComponent(collection), ...rest].join("/");

// XMLHttpRequest because fetch does not tell how much was sent. ``onProgress`` gets bytes, the form around the file included.
// Resolves to the video and whether it is new, or to the job that goes on with what takes long.
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
    xhr.onerror = () => reject(new ApiError({ detail: "The upload was broken off.", code: "unreachable" }, 0));
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
