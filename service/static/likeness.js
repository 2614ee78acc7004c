// What results should look like: a picture or video that was given, or a clip of the collection.

import { $, el, span } from "./parts.js";

let like = null;
let changed = () => {};

// null, {file, name} or {clip, name, thumbnail}, clip being an id.
export const likeness = () => like;

export const likeFile = (file) => set({ file, name: file.name });

export const likeClip = (clip) =>
  set({ clip: clip.clip_id, name: `${clip.video.title}, ${span(clip.start, clip.end)}`, thumbnail: clip.thumbnail_url });

// Of a clip whose id is all that is known, as from an address.
export const likeClipId = (id) => set({ clip: id, name: `clip ${id}` });

export const forgetLikeness = () => set(null);

export function prepareLikeness(onChange, search) {
  changed = onChange;
  $("like").onclick = () => $("like-file").click();
  $("like-file").onchange = () => {
    const [file] = $("like-file").files;
    $("like-file").value = "";
    if (!file) return;
    likeFile(file);
    search();
  };
}

export function likenessChip(remove) {
  if (!like) return null;
  return el("li", { className: "picked" }, smallPicture(like),
    el("span", { textContent: `Like ${like.name}`, title: like.name }),
    el("button", { type: "button", textContent: "×", "aria-label": `Do not look for what is like ${like.name}`, onclick: remove }));
}

// A picture of the file or clip; nothing where the browser cannot show it.
export function smallPicture({ file, address, thumbnail }) {
  const source = thumbnail || address;
  if (!source) return null;
  const isFilm = file && file.type.startsWith("video/");
  const shown = isFilm
    ? el("video", { src: `${source}#t=0.5`, muted: true, playsInline: true, preload: "metadata" })
    : el("img", { src: source, alt: "" });
  shown.onerror = () => shown.remove();
  return shown;
}

function set(wanted) {
  if (like && like.address) URL.revokeObjectURL(like.address);
  like = wanted && wanted.file ? { ...wanted, address: URL.createObjectURL(wanted.file) } : wanted;
  changed();
}
