// The address: what is looked for, and what is open of it: ``video`` and, of a part of it, its seconds as ``t``. An entry of
// the history is a "search"; a "clip" that was opened in the search before it; or "left", that search once more after the
// clip was closed, whose place the next one takes.

let kind = history.state?.kind;
let lastSearch = location.search;

// What is open by the address, {video, t}; null where nothing is.
export function openedVideo() {
  const query = new URLSearchParams(location.search);
  return query.has("video") ? { video: query.get("video"), t: query.get("t") } : null;
}

// The address without what is open.
export function searchQuery() {
  const query = new URLSearchParams(location.search);
  query.delete("video");
  query.delete("t");
  return query.size ? `?${query}` : "";
}

function addVideo(search, { video, t }) {
  const query = new URLSearchParams(search);
  query.set("video", video);
  if (t) query.set("t", t);
  return `?${query}`;
}

function writeEntry(method, newKind, search) {
  kind = newKind;
  history[method]({ kind }, "", (search || "/") + location.hash);
  lastSearch = location.search;
}

// The first address of a page is completed; what is asked for after it can be gone back from.
export function recordSearch(search) {
  if (!kind) writeEntry("replaceState", "search", openedVideo() ? addVideo(search, openedVideo()) : search);
  else if (search !== searchQuery()) writeEntry(kind === "left" ? "replaceState" : "pushState", "search", search);
}

export function recordOpened({ video, start, end }) {
  const isPart = end > start && !(start === 0 && end > video.duration - 0.01);
  const search = addVideo(searchQuery(), { video: video.id, t: isPart && `${roundSeconds(start)}-${roundSeconds(end)}` });
  if (openedVideo()?.video === video.id) writeEntry("replaceState", kind, search);
  else writeEntry(kind === "left" ? "replaceState" : "pushState", "clip", search);
}

export function recordClosed() {
  if (openedVideo()) writeEntry("replaceState", kind === "clip" ? "left" : "search", searchQuery());
}

const roundSeconds = (seconds) => Number(seconds.toFixed(3));

// Calls ``follow()`` when somebody has gone back or forward. Whoever goes back from what was left is at the same search
// again, and goes on to what was before it.
export function onNavigate(callback) {
  addEventListener("popstate", () => {
    const isSameSearch = kind === "left" && history.state?.kind === "search" && lastSearch === location.search;
    kind = history.state?.kind;
    lastSearch = location.search;
    if (isSameSearch) history.back();
    else callback();
  });
}
