// The address and browser history. The address holds the search and the opened video: ``video`` and, for a span of it, ``t``.
// Kinds of entries: "search", "clip" (opened from the search before it), or "left" (that search after the clip was closed; the next
// entry replaces it).

let kind = history.state?.kind;
let lastSearch = location.search;

// The video in the address, {video, t}; null if there is none.
export function openedVideo() {
  const query = new URLSearchParams(location.search);
  return query.has("video") ? { video: query.get("video"), t: query.get("t") } : null;
}

// The address's query without the opened video.
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

// The entry that was loaded is replaced, later searches are pushed.
export function recordSearch(search, isLoaded) {
  if (!kind || isLoaded) writeEntry("replaceState", kind || "search", openedVideo() ? addVideo(search, openedVideo()) : search);
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

// Call ``callback()`` after Back or Forward. Back from a "left" entry leads to the same search again, so it goes back once
// more.
export function onNavigate(callback) {
  addEventListener("popstate", () => {
    const isSameSearch = kind === "left" && history.state?.kind === "search" && lastSearch === location.search;
    kind = history.state?.kind;
    lastSearch = location.search;
    if (isSameSearch) history.back();
    else callback();
  });
}
