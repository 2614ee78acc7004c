// The query by example: an image or video file, or a clip of the collection.

import { $, el, formatSpan } from "./dom.js";

let current = null;
let chip = null; // of the current query
let onQueryChange = () => {};

// null, {file, name} or {clip, name, thumbnail}; ``clip`` is an id.
export const similarQuery = () => current;

export const setSimilarFile = (file) => setQuery({ file, name: file.name });

export const setSimilarClip = (clip) =>
  setQuery({ clip: clip.clip_id, name: `${clip.video.title}, ${formatSpan(clip.start, clip.end)}`, thumbnail: clip.thumbnail_url });

// For a clip from an address, of which only the id is known.
export const setSimilarClipId = (id) => setQuery({ clip: id, name: `clip ${id}` });

export const clearSimilar = () => setQuery(null);

export function prepareSimilar(onChange, search) {
  onQueryChange = onChange;
  $("like").onclick = () => $("like-file").click();
  $("like-file").onchange = () => {
    const [file] = $("like-file").files;
    $("like-file").value = "";
    if (!file) return;
    setSimilarFile(file);
    search();
  };
}

export function similarChip(remove) {
  if (!current) return null;
  chip ??= el("li", { className: "query-chip" }, smallPreview(current),
    el("span", { textContent: `Similar to ${current.name}`, title: current.name }),
    el("button", { type: "button", textContent: "×", "aria-label": `Remove similar to ${current.name}`, onclick: remove }));
  return chip;
}

// A small preview of the file or clip; null if there is none.
export function smallPreview({ file, address, thumbnail }) {
  const source = thumbnail || address;
  if (!source) return null;
  const isVideo = file && file.type.startsWith("video/");
  const element = isVideo
    ? el("video", { src: `${source}#t=0.5`, muted: true, playsInline: true, preload: "metadata" })
    : el("img", { src: source, alt: "" });
  element.onerror = () => element.remove();
  return element;
}

function setQuery(query) {
  if (current && current.address) URL.revokeObjectURL(current.address);
  current = query && query.file ? { ...query, address: URL.createObjectURL(query.file) } : query;
  chip = null;
  onQueryChange();
}
