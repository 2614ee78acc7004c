// The tab's API key, and the media cookie that authorizes <img> and <video>.

import { reportUnreachable } from "./api.js";
import { $ } from "./dom.js";

const STORAGE_KEY = "vitascope-key";
const RENEW_INTERVAL = 20 * 60 * 1000; // the cookie is valid for one hour
let pendingPrompt = null;

export const keyHeaders = () => {
  const key = sessionStorage.getItem(STORAGE_KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
};

// Tags such as <video> send no headers.
const createMediaCookie = () => fetch("/v1/media-cookie", { method: "POST", headers: keyHeaders() });

const renewMediaCookie = () => (sessionStorage.getItem(STORAGE_KEY) ? createMediaCookie().catch(() => {}) : Promise.resolve());
export const mediaReady = renewMediaCookie();
setInterval(renewMediaCookie, RENEW_INTERVAL);
addEventListener("focus", renewMediaCookie); // timers stop while a computer sleeps

// The next request prompts for a key.
export function forgetKey() {
  sessionStorage.removeItem(STORAGE_KEY);
}

// Resolve once the service has accepted a key; concurrent callers share one prompt. There is none if the key has changed since
// the Authorization header ``rejected`` was sent.
export function promptForKey(rejected, reason) {
  if (!pendingPrompt && keyHeaders().Authorization !== rejected) return Promise.resolve();
  pendingPrompt ??= new Promise((resolve) => {
    forgetKey();
    $("key-error").textContent = rejected ? reason : "";
    $("key-form").onsubmit = async (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORAGE_KEY, $("key").value.trim());
      try {
        const response = await createMediaCookie().catch(reportUnreachable);
        if (!response.ok) throw new Error((await response.json().catch(reportUnreachable)).detail);
      } catch (error) {
        forgetKey();
        $("key-error").textContent = error.message;
        $("key").select();
        return;
      }
      $("key").value = "";
      $("key-dialog").close();
      pendingPrompt = null;
      resolve();
    };
    if (!$("key-dialog").open) $("key-dialog").showModal();
  });
  return pendingPrompt;
}

$("key-dialog").onclose = () => pendingPrompt && $("key-dialog").showModal(); // a key is required, also after Escape
