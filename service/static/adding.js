// Adding videos: how they are cut into clips, files from here, folders of the service's machine, URLs; and embedding again.

import { at, call, upload } from "./api.js";
import { el } from "./parts.js";

const $ = (id) => document.getElementById(id);
const POLL = 700; // milliseconds
const LEFT_FOR = 4000;
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

const pause = () => new Promise((resolve) => setTimeout(resolve, POLL));

// A line for each thing that is under way

function line(name) {
  const fill = el("i");
  const status = el("span", { textContent: "waiting" });
  const buttons = el("span", { className: "row" });
  const box = el("div", { className: "upload" },
    el("div", { className: "row" }, el("span", { textContent: name, title: name }), buttons,
      el("button", { type: "button", textContent: "×", "aria-label": `Dismiss ${name}`, onclick: () => box.remove() })),
    el("div", { className: "meter" }, fill), status);
  $("uploads").append(box);
  return {
    box,
    buttons,
    say(text, share) {
      status.textContent = text;
      if (share !== undefined) fill.style.setProperty("--share", share);
    },
    fail(text) {
      box.classList.add("failed");
      status.textContent = text;
      status.className = "error";
    },
    end(text, notes = []) {
      status.textContent = [text, ...notes].join("; ");
      fill.style.setProperty("--share", 1);
      if (!notes.length) setTimeout(() => box.remove(), LEFT_FOR);
    },
  };
}

// Files, one after the other

let queue = Promise.resolve();

export function addFiles(collection, files, onAdded) {
  const cut = segmentation();
  if (!cut) return;
  $("add").close();
  for (const file of files) {
    const shown = line(file.name);
    queue = queue.then(() => send(collection, file, cut, shown, onAdded));
  }
}

async function send(collection, file, cut, shown, onAdded) {
  try {
    const { video, created } = await upload(collection, file, cut, (share) =>
      shown.say(share < 1 ? `uploading, ${Math.round(share * 100)}%` : "indexing…", share));
    shown.end(created ? `added, ${video.clips} ${video.clips === 1 ? "clip" : "clips"}` : "was there already", video.notes);
    await onAdded(collection);
  } catch (error) {
    shown.fail(error.message);
  }
}

// Folders and URLs

const followed = new Set();

async function addFolder(collection, onAdded) {
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
    const job = await call("POST", at(collection, "jobs"), { ...wanted, segmentation: cut });
    $("add").close();
    follow(collection, job, onAdded);
  } catch (error) {
    $("add-error").textContent = error.message;
    $("folder").focus();
  }
}

// Jobs that go on, whoever began them.
export async function showJobs(collection, onAdded) {
  for (const state of ["queued", "running"]) {
    const { jobs } = await call("GET", `${at(collection, "jobs")}?state=${state}`);
    for (const job of jobs) follow(collection, job, onAdded);
  }
}

async function follow(collection, job, onAdded) {
  const address = at(collection, "jobs", job.id);
  if (followed.has(address)) return;
  followed.add(address);
  const source = job.source;
  const shown = line(source.folder || source.file || source.url || `job ${job.id}`);
  shown.buttons.append(el("button", { type: "button", textContent: "Cancel", onclick: () => call("DELETE", address).catch(() => {}) }));
  try {
    let isFirst = !job.counts.succeeded;
    while (!["succeeded", "failed", "cancelled"].includes(job.state)) {
      shown.say(job.total ? `${job.state}, ${job.done} of ${job.total} files` : job.state, job.total ? job.done / job.total : 0);
      await pause();
      job = await call("GET", address);
      // Not at every file: whoever looks at the page should not lose the place.
      if (isFirst && job.counts.succeeded) await onAdded(collection);
      isFirst = !job.counts.succeeded;
    }
    shown.buttons.replaceChildren();
    await onAdded(collection);
    const failed = (await call("GET", `${address}/items?state=failed`)).items;
    const reasons = failed.slice(0, 3).map((item) => item.reason);
    if (job.error) shown.fail(job.error);
    else if (failed.length) shown.fail([`${job.counts.succeeded} added, ${job.counts.failed} failed`, ...reasons].join("; "));
    else shown.end(`${job.state}: ${job.counts.succeeded} added, ${job.counts.skipped} skipped`);
  } catch (error) {
    shown.fail(error.message);
  } finally {
    followed.delete(address);
  }
}

// A collection of another model

export async function embedAgain(collection, onDone) {
  const shown = line(`${collection}, by the default model`);
  try {
    let operation = await call("POST", "/v1/operations", { kind: "reembed", collection });
    const address = `/v1/operations/${operation.id}`;
    while (!["succeeded", "failed"].includes(operation.state)) {
      shown.say(`embedding, ${Math.round(operation.progress * 100)}%`, operation.progress);
      await pause();
      operation = await call("GET", address);
    }
    await call("DELETE", address);
    if (operation.error) shown.fail(operation.error);
    else shown.end("done");
    await onDone(collection);
  } catch (error) {
    shown.fail(error.message);
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
    addFolder(await collection(), onAdded);
  };
  $("files").onchange = async () => {
    const files = [...$("files").files];
    $("files").value = "";
    addFiles(await collection(), files, onAdded);
  };
}

export function openAdding(collection) {
  $("add-error").textContent = "";
  $("add-title").textContent = `Add videos to ${collection}`;
  $("add").showModal();
}
