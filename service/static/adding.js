// Adding videos: how they are cut into clips, files from here, folders of the service's machine, URLs.

import { at, call } from "./api.js";
import { announce } from "./notices.js";
import { $ } from "./parts.js";
import { may } from "./rights.js";
import { take } from "./watching.js";

const USUAL_SHORTEST = { windows: "half of length", shots: "1", subtitles: "4" };
const fieldsOf = (rule) => [...$("add").querySelectorAll(`[data-rules~=${rule}] input`)];
const rule = () => $("add").querySelector("[name=rule]:checked").value;

// How videos are cut

function showRule() {
  for (const label of $("add").querySelectorAll("[data-rules]")) {
    label.hidden = !label.dataset.rules.split(" ").includes(rule());
    label.querySelector("input").disabled = label.hidden; // what is not shown is not checked either
  }
  $("shortest").placeholder = USUAL_SHORTEST[rule()];
  check();
}

function check() {
  const room = Number($("length").value) - Number($("overlap").value);
  const wrong = rule() === "windows" && room < Number($("length").min);
  $("overlap").setCustomValidity(wrong ? `At least ${$("length").min} s less than the length was expected.` : "");
}

// As the service takes it; null, with the dialog open at what is wrong, where it cannot be taken.
function segmentation() {
  if (fieldsOf(rule()).some((field) => !field.checkValidity())) {
    if (!$("add").open) $("add").showModal();
    fieldsOf(rule()).find((field) => !field.reportValidity());
    return null;
  }
  const given = fieldsOf(rule()).filter((field) => field.value.trim() !== "");
  return {
    rule: rule(),
    ...Object.fromEntries(given.map((field) => [field.id, field.type === "number" ? Number(field.value) : field.value.trim()])),
  };
}

export async function addFiles(collection, files, onAdded) {
  if (!(await mayAdd(collection))) return openAdding(collection);
  const cut = segmentation();
  if (!cut) return;
  try {
    const { addUploads } = await import("./uploads.js");
    $("add").close();
    addUploads(collection, files, cut, onAdded);
  } catch (error) {
    await openAdding(collection);
    $("add-error").textContent = error.message;
  }
}

// Folders and URLs

async function addFolder(collection) {
  const cut = segmentation();
  if (!cut) return;
  $("add-error").textContent = "";
  if (!$("folder").value.trim()) {
    $("add-error").textContent = "Name a folder or a URL.";
    $("folder").focus();
    return;
  }
  const named = $("folder").value.trim();
  const wanted = named.includes("://")
    ? { source: { kind: "url", url: named } }
    : { folder: named, recursive: $("recursive").checked };
  try {
    take(collection, await call("POST", at(collection, "jobs"), { ...wanted, segmentation: cut }));
    $("add").close();
    announce(`${named}: under way`);
  } catch (error) {
    $("add-error").textContent = error.message;
    $("folder").focus();
  }
}

// ``collection`` gives the name of the one that is looked at, once it is known.
export function prepareAdding(collection, onAdded) {
  $("add").addEventListener("change", showRule);
  $("cutting").addEventListener("input", check);
  showRule();
  $("upload").onclick = async () => openAdding(await collection());
  $("add-close").onclick = () => $("add").close();
  $("files-form").onsubmit = (event) => {
    event.preventDefault();
    if (segmentation()) $("files").click();
  };
  $("folder-form").onsubmit = async (event) => {
    event.preventDefault();
    addFolder(await collection());
  };
  $("files").onchange = async () => {
    const files = [...$("files").files];
    $("files").value = "";
    addFiles(await collection(), files, onAdded);
  };
}

// Where that cannot be told the service will say it.
const mayAdd = (collection) => may("write", collection).catch(() => true);

export async function openAdding(collection) {
  const isAllowed = await mayAdd(collection);
  $("add-forbidden").hidden = isAllowed;
  $("files-form").hidden = $("folder-form").hidden = !isAllowed;
  $("add-error").textContent = "";
  $("add-title").textContent = `Add videos to ${collection}`;
  $("add").showModal();
}
