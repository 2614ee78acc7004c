// The address: what is looked for, and what is open of it: ``video`` and, of a part of it, its seconds as ``t``. An entry of
// the history is a "search"; a "clip" that was opened in the search before it; or "left", that search once more after the
// clip was closed, whose place the next one takes.

let kind = history.state?.kind;
let place = location.search;

// What is open by the address, {video, t}; null where nothing is.
export function linked() {
  const query = new URLSearchParams(location.search);
  return query.has("video") ? { video: query.get("video"), t: query.get("t") } : null;
}

// The address without what is open.
export function searched() {
  const query = new URLSearchParams(location.search);
  query.delete("video");
  query.delete("t");
  return query.size ? `?${query}` : "";
}

function withOpened(search, { video, t }) {
  const query = new URLSearchParams(search);
  query.set("video", video);
  if (t) query.set("t", t);
  return `?${query}`;
}

function put(how, as, search) {
  kind = as;
  history[how]({ kind }, "", (search || "/") + location.hash);
  place = location.search;
}

// The first address of a page is completed; what is asked for after it can be gone back from.
export function noteSearch(search) {
  if (!kind) put("replaceState", "search", linked() ? withOpened(search, linked()) : search);
  else if (search !== searched()) put(kind === "left" ? "replaceState" : "pushState", "search", search);
}

export function noteOpened({ video, start, end }) {
  const isPart = end > start && !(start === 0 && end > video.duration - 0.01);
  const search = withOpened(searched(), { video: video.id, t: isPart && `${rounded(start)}-${rounded(end)}` });
  if (linked()?.video === video.id) put("replaceState", kind, search);
  else put(kind === "left" ? "replaceState" : "pushState", "clip", search);
}

export function noteClosed() {
  if (linked()) put("replaceState", kind === "clip" ? "left" : "search", searched());
}

const rounded = (seconds) => Number(seconds.toFixed(3));

// Calls ``follow()`` when somebody has gone back or forward. Whoever goes back from what was left is at the same search
// again, and goes on to what was before it.
export function onTravel(follow) {
  addEventListener("popstate", () => {
    const isSame = kind === "left" && history.state?.kind === "search" && place === location.search;
    kind = history.state?.kind;
    place = location.search;
    if (isSame) history.back();
    else follow();
  });
}
