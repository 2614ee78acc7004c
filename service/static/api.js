// The service's interface, as far as the page needs it.

import { askForKey, keyHeaders, ready } from "./keys.js";

export class Failure extends Error {
  constructor(problem, status) {
    super(problem.detail || problem.title || `The service answered ${status}.`);
    this.code = problem.code || "unknown";
    this.status = status;
  }
}

export async function call(method, path, body, signal) {
  await ready;
  const request = { method, signal, headers: { Accept: "application/json", ...keyHeaders() } };
  if (body instanceof FormData) request.body = body;
  else if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ detail: "The service cannot be reached. Is it running?", code: "unreachable" }, 0);
  }
  if (response.status === 401) {
    await askForKey();
    return call(method, path, body, signal);
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Failure(answer, response.status);
  return answer;
}

export const at = (collection, ...rest) => ["/v1/collections", encodeURIComponent(collection), ...rest].join("/");

// XMLHttpRequest because fetch does not tell how much was sent.
export function upload(collection, file, segmentation, onProgress) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("file", file);
    form.append("segmentation", JSON.stringify(segmentation));
    const request = new XMLHttpRequest();
    request.open("POST", at(collection, "videos"));
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Failure({ detail: "The upload was broken off." }, 0));
    request.onload = () => {
      const answer = request.response || {};
      if (request.status < 300) resolve({ video: answer, created: request.status === 201 });
      else reject(new Failure(answer, request.status));
    };
    request.send(form);
  });
}
