// The query by example: an image, video or sound file, or a clip of the collection.

import { $, el, formatSpan, isSound } from "./dom.js";

let current = null;
let chip = null; // of the current query
let onQueryChange = () => {};

// null, {file, name} or {clip, signal, name, thumbnail}; ``clip`` is an id, ``signal`` "audio" for its sound.
export const similarQuery = () => current;

export const setSimilarFile = (file) => setQuery({ file, name: file.name });

export const setSimilarClip = (clip, signal = isSound(clip) ? "audio" : undefined) => setQuery({
  clip: clip.clip_id, signal, name: `${clip.video.title}, ${formatSpan(clip.start, clip.end)}`, thumbnail: isSound(clip) ? null : clip.thumbnail_url, isLoaded: true,
});

// For a clip from an address, of which only the id is known.
export const setSimilarClipId = (id, signal) => setQuery({ clip: id, signal, name: `clip ${id}` });

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

export const isSoundFile = (file) => Boolean(file?.type.startsWith("audio/"));

export function similarChip(remove) {
  if (!current) return null;
  const relation = current.signal === "audio" ? "Sounds like" : "Similar to";
  chip ??= el("li", { className: "query-chip" }, smallPreview(current),
    el("span", { textContent: `${relation} ${current.name}`, title: current.name }),
    el("button", { type: "button", textContent: "×", "aria-label": `Remove ${relation.toLowerCase()} ${current.name}`, onclick: remove }));
  return chip;
}

// A small preview of the file or clip; null if there is none.
export function smallPreview({ file, address, thumbnail }) {
  const source = thumbnail || address;
  if (!source || isSoundFile(file)) return null;
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
