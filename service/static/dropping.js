// Files that are dropped or pasted: one may be searched with or added, several are added.

import { addFiles } from "./adding.js";
import { closeClip } from "./clip.js";
import { chosenName } from "./collections.js";
import { likeFile, smallPicture } from "./likeness.js";
import { $ } from "./parts.js";

const carriesFiles = (transfer) => transfer && [...transfer.types].includes("Files");
let file = null;
let address = null;

function take(files, onAdded) {
  if (!chosenName() || !files.length) return;
  if (files.length > 1 || $("add").open) return addFiles(chosenName(), files, onAdded);
  [file] = files;
  address = URL.createObjectURL(file);
  $("drop-title").textContent = file.name;
  $("drop-add").textContent = `Add it to ${chosenName()}`;
  const picture = smallPicture({ file, address });
  $("drop-picture").replaceChildren(picture);
  $("drop-dialog").showModal();
}

// ``search`` looks for what is like the file, ``onAdded`` is called with the collection that got it.
export function prepareDropping(search, onAdded) {
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event.dataTransfer)) return;
    event.preventDefault();
    $("drop").hidden = !chosenName();
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && ($("drop").hidden = true));
  addEventListener("drop", (event) => {
    if (!carriesFiles(event.dataTransfer)) return;
    event.preventDefault();
    $("drop").hidden = true;
    take([...event.dataTransfer.files], onAdded);
  });
  addEventListener("paste", (event) => {
    if (!carriesFiles(event.clipboardData)) return;
    event.preventDefault();
    take([...event.clipboardData.files], onAdded);
  });
  $("drop-search").onclick = () => {
    $("drop-dialog").close();
    closeClip();
    likeFile(file);
    $("query").focus();
    search();
  };
  $("drop-add").onclick = () => {
    $("drop-dialog").close();
    addFiles(chosenName(), [file], onAdded);
  };
  $("drop-cancel").onclick = () => $("drop-dialog").close();
  $("drop-dialog").addEventListener("close", () => {
    $("drop-picture").replaceChildren();
    URL.revokeObjectURL(address);
  });
}
