// The API key: asked for once, kept for this tab, and the cookie that pictures and videos are fetched with.

const $ = (id) => document.getElementById(id);
const PLACE = "vitascope-key";
const RENEW = 20 * 60 * 1000; // the cookie lasts an hour
let asking = null;

export const keyHeaders = () => {
  const key = sessionStorage.getItem(PLACE);
  return key ? { Authorization: `Bearer ${key}` } : {};
};

// Tags such as <video> send no headers.
const renewCookie = () => fetch("/v1/media-cookie", { method: "POST", headers: keyHeaders() });

const renewIfThereIsAKey = () => (sessionStorage.getItem(PLACE) ? renewCookie().catch(() => {}) : Promise.resolve());
export const ready = renewIfThereIsAKey();
setInterval(renewIfThereIsAKey, RENEW);

// The next request asks for another one.
export function forgetKey() {
  sessionStorage.removeItem(PLACE);
}

// Resolves once the service has accepted a key; everybody who waits shares one question. ``refused``: the Authorization of
// the request that was refused. Where another key was accepted since, that is no reason to ask again.
export function askForKey(refused) {
  if (!asking && keyHeaders().Authorization !== refused) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    sessionStorage.removeItem(PLACE);
    $("key-error").textContent = "";
    $("key-form").onsubmit = async (event) => {
      event.preventDefault();
      sessionStorage.setItem(PLACE, $("key").value.trim());
      try {
        const answer = await renewCookie();
        if (!answer.ok) throw new Error((await answer.json()).detail);
      } catch (error) {
        sessionStorage.removeItem(PLACE);
        $("key-error").textContent = error.message;
        $("key").select();
        return;
      }
      $("key").value = "";
      $("key-dialog").close();
      asking = null;
      resolve();
    };
    if (!$("key-dialog").open) $("key-dialog").showModal();
  });
  return asking;
}

$("key-dialog").oncancel = (event) => event.preventDefault(); // nothing works without
