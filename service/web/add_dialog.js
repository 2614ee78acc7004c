// The dialog that adds videos: segmentation, local files, folders on the server, URLs.

import { call, collectionPath, hasScope, reportUnreachable } from "./api.js";
import { $ } from "./dom.js";
import { trackJob } from "./job_store.js";
import { announce } from "./toasts.js";

const DEFAULT_SHORTEST = { auto: "automatic", windows: "half the clip length", shots: "1", subtitles: "4" };
const ruleFields = (selectedRule) => [...$("add").querySelectorAll(`[data-rules~=${selectedRule}] input`)];
const selectedRule = () => $("add").querySelector("[name=rule]:checked").value;

// Segmentation

function showRule() {
  for (const label of $("add").querySelectorAll("[data-rules]")) {
    label.hidden = !label.dataset.rules.split(" ").includes(selectedRule());
    label.querySelector("input").disabled = label.hidden; // hidden fields are not validated
  }
  $("shortest").placeholder = DEFAULT_SHORTEST[selectedRule()];
  validate();
}

function validate() {
  const stride = Number($("length").value) - Number($("overlap").value);
  const isInvalid = ["auto", "windows"].includes(selectedRule()) && stride < Number($("length").min);
  $("overlap").setCustomValidity(isInvalid ? `The overlap must be at least ${$("length").min} s shorter than the clip length.` : "");
}

// The segmentation as the API takes it; null, with the dialog open at the invalid field, if it is invalid.
function readSegmentation() {
  if (ruleFields(selectedRule()).some((field) => !field.checkValidity())) {
    if (!$("add").open) $("add").showModal();
    ruleFields(selectedRule()).find((field) => !field.reportValidity());
    return null;
  }
  const filled = ruleFields(selectedRule()).filter((field) => field.value.trim() !== "");
  return {
    rule: selectedRule(),
    ...Object.fromEntries(filled.map((field) => [field.id, field.type === "number" ? Number(field.value) : field.value.trim()])),
  };
}

export async function addFiles(collection, files, onAdded) {
  if (!(await canAdd(collection))) return openAddDialog(collection);
  const segmentation = readSegmentation();
  if (!segmentation) return;
  try {
    const { addUploads } = await import("./uploads.js").catch(reportUnreachable);
    $("add").close();
    addUploads(collection, files, segmentation, onAdded);
  } catch (error) {
    await openAddDialog(collection);
    $("add-error").textContent = error.message;
  }
}

// Folders and URLs

async function addSource(collection) {
  const segmentation = readSegmentation();
  if (!segmentation) return;
  $("add-error").textContent = "";
  if (!$("folder").value.trim()) {
    $("add-error").textContent = "Enter a folder or a URL.";
    $("folder").focus();
    return;
  }
  const source = $("folder").value.trim();
  const request = source.includes("://")
    ? { source: { kind: "url", url: source } }
    : { folder: source, recursive: $("recursive").checked };
  try {
    trackJob(collection, await call("POST", collectionPath(collection, "jobs"), { ...request, segmentation }));
    $("add").close();
    announce(`${source}: indexing started`);
  } catch (error) {
    $("add-error").textContent = error.message;
    $("folder").focus();
  }
}

// ``collection()`` resolves to the name of the current collection.
export function prepareAddDialog(collection, onAdded) {
  $("add").addEventListener("change", showRule);
  $("cutting").addEventListener("input", validate);
  showRule();
  $("upload").onclick = async () => openAddDialog(await collection());
  $("add-close").onclick = () => $("add").close();
  $("files-form").onsubmit = (event) => {
    event.preventDefault();
    if (readSegmentation()) $("files").click();
  };
  $("folder-form").onsubmit = async (event) => {
    event.preventDefault();
    addSource(await collection());
  };
  $("files").onchange = async () => {
    const files = [...$("files").files];
    $("files").value = "";
    addFiles(await collection(), files, onAdded);
  };
}

// If permissions cannot be read, the request itself reports it.
const canAdd = (collection) => hasScope("write", collection).catch(() => true);

export async function openAddDialog(collection) {
  const isAllowed = await canAdd(collection);
  $("add-forbidden").hidden = isAllowed;
  $("files-form").hidden = $("folder-form").hidden = !isAllowed;
  $("add-error").textContent = "";
  $("add-title").textContent = `Add videos to ${collection}`;
  $("add").showModal();
}
