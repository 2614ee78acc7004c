// The service's interface, as far as the page needs it.

import { askForKey, keyHeaders, ready } from "./keys.js";

export class Failure extends Error {
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
export async function ask(method, path, { body, signal, headers } = {}) {
  await ready;
  const key = keyHeaders();
  let response;
  try {
    response = await fetch(path, { method, signal, body, headers: { Accept: "application/json", ...headers, ...key } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ detail: "The service cannot be reached. Is it running?", code: "unreachable" }, 0);
  }
  if (response.status === 401) {
    await askForKey(key.Authorization);
    return ask(method, path, { body, signal, headers });
  }
  if (response.ok) return response;
  throw new Failure(await response.json().catch(() => ({})), response.status, response.headers.get("Retry-After"));
}

// ``body``: what becomes JSON, or a form.
export async function call(method, path, body, signal) {
  const isJson = body !== undefined && !(body instanceof FormData);
  const request = isJson ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : { body };
  const response = await ask(method, path, { ...request, signal });
  return response.status === 204 ? null : response.json().catch(() => ({}));
}

export const at = (collection, ...rest) => ["/v1/collections", encodeURIComponent(collection), ...rest].join("/");

// XMLHttpRequest because fetch does not tell how much was sent. ``onProgress`` gets bytes, the form around the file included.
// Resolves to the video and whether it is new, or to the job that goes on with what takes long.
export function upload(collection, file, segmentation, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("file", file);
    form.append("segmentation", JSON.stringify(segmentation));
    const request = new XMLHttpRequest();
    request.open("POST", at(collection, "videos"));
    request.setRequestHeader("Prefer", "respond-async, wait=20");
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded, event.total);
    request.onerror = () => reject(new Failure({ detail: "The upload was broken off.", code: "unreachable" }, 0));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onload = () => {
      const answer = request.response || {};
      if (request.status === 202) resolve({ job: answer });
      else if (request.status < 300) resolve({ video: answer, created: request.status === 201 });
      else reject(new Failure(answer, request.status, request.getResponseHeader("Retry-After")));
    };
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
