// Dropped and pasted files: search with one, or add one or several.

import { addFiles } from "./add_dialog.js";
import { currentName } from "./collections.js";
import { $, el } from "./dom.js";
import { recordClosed } from "./history.js";
import { isSoundFile, setSimilarFile, smallPreview } from "./similar_query.js";

const hasFiles = (transfer) => transfer && [...transfer.types].includes("Files");
let file = null;
let objectUrl = null;
let clearCaptions = () => {};

function handleFiles(files, onAdded) {
  if (!currentName() || !files.length) return;
  if (files.length > 1 || $("add").open) return addFiles(currentName(), files, onAdded);
  [file] = files;
  URL.revokeObjectURL(objectUrl);
  objectUrl = URL.createObjectURL(file);
  $("drop-title").textContent = file.name;
  $("drop-add").textContent = `Add to ${currentName()}`;
  const preview = isSoundFile(file) ? el("audio", { src: objectUrl, controls: true, "aria-label": file.name }) : smallPreview({ file, address: objectUrl });
  $("drop-picture").classList.toggle("sound", isSoundFile(file));
  $("drop-picture").replaceChildren(preview);
  clearCaptions();
  $("drop-captioning-form").hidden = true;
  if (!isSoundFile(file)) offerCaptions(file).catch(() => {}); // the dialog works without
  $("drop-dialog").showModal();
}

async function offerCaptions(dropped) {
  const { captionModel, prepareCaptioningForm } = await import("./captioning_form.js");
  if (file !== dropped) return; // another one was dropped meanwhile
  clearCaptions = prepareCaptioningForm($("drop-captioning-form"), $("drop-captions"), () => {
    const body = new FormData();
    body.append("model", captionModel());
    body.append("file", file);
    return body;
  });
  clearCaptions(); // shows the form if a model has the task
}

// ``search()`` runs the search, ``onAdded(collection)`` is called after files were added.
export function prepareDropTarget(search, onAdded) {
  addEventListener("dragover", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    $("drop").hidden = !currentName();
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && ($("drop").hidden = true));
  addEventListener("drop", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    $("drop").hidden = true;
    handleFiles([...event.dataTransfer.files], onAdded);
  });
  addEventListener("paste", (event) => {
    if (!hasFiles(event.clipboardData)) return;
    event.preventDefault();
    handleFiles([...event.clipboardData.files], onAdded);
  });
  $("drop-search").onclick = () => {
    $("drop-dialog").close();
    recordClosed();
    $("clip").close();
    setSimilarFile(file);
    $("query").focus();
    search();
  };
  $("drop-add").onclick = () => {
    $("drop-dialog").close();
    addFiles(currentName(), [file], onAdded);
  };
  $("drop-cancel").onclick = () => $("drop-dialog").close();
  $("drop-dialog").addEventListener("close", () => {
    $("drop-picture").replaceChildren();
    clearCaptions();
    URL.revokeObjectURL(objectUrl);
  });
}
