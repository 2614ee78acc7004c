// What results should look like: a picture or video that was given, or a clip of the collection.

import { $, el, formatSpan } from "./dom.js";

let current = null;
let onQueryChange = () => {};

// null, {file, name} or {clip, name, thumbnail}, clip being an id.
export const similarQuery = () => current;

export const setSimilarFile = (file) => setQuery({ file, name: file.name });

export const setSimilarClip = (clip) =>
  setQuery({ clip: clip.clip_id, name: `${clip.video.title}, ${formatSpan(clip.start, clip.end)}`, thumbnail: clip.thumbnail_url });

// Of a clip whose id is all that is known, as from an address.
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
  return el("li", { className: "picked" }, smallPreview(current),
    el("span", { textContent: `Like ${current.name}`, title: current.name }),
    el("button", { type: "button", textContent: "×", "aria-label": `Do not look for what is like ${current.name}`, onclick: remove }));
}

// A picture of the file or clip; nothing where the browser cannot show it.
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
  onQueryChange();
}
