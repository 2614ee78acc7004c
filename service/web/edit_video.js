// The dialog that edits a video's title, metadata and subtitles.

import { call, collectionPath } from "./api.js";
import { confirmAction } from "./confirm.js";
import { el, field } from "./dom.js";

// Resolves to the video after the changes; to null if cancelled.
export async function editVideo(collection, video) {
  const subtitles = el("input", { type: "file", accept: ".srt,.vtt" });
  const shown = formatMetadata(video.metadata);
  const metadataInput = el("textarea", {
    name: "metadata", rows: 4, value: shown, placeholder: "camera: north", spellcheck: false,
    oninput: () => metadataInput.setCustomValidity(describeInvalidLine(metadataInput.value)),
  });
  const answers = await confirmAction({
    title: `Edit ${video.title}`, text: "One metadata field per line. A number in quotation marks is text.", action: "Save",
    fields: [
      field("Title", el("input", { name: "title", value: video.title, maxLength: 500, required: true, autocomplete: "off" })),
      field("Metadata", metadataInput),
      field("Replace subtitles by a file (SRT or WebVTT)", subtitles),
    ],
  });
  if (!answers) return null;
  const [before, after] = [shown, answers.metadata].map(parseMetadata);
  const changed = Object.keys({ ...before, ...after }).filter((name) => before[name] !== after[name]);
  const metadata = Object.fromEntries(changed.map((name) => [name, after[name] ?? null])); // null deletes it
  const [file] = subtitles.files;
  const changes = { title: answers.title.trim(), metadata, ...(file ? { subtitles: await file.text() } : {}) };
  return call("PATCH", collectionPath(collection, "videos", video.id), changes);
}

const formatMetadata = (metadata) => Object.entries(metadata).map(([name, value]) => `${formatName(name)}: ${formatValue(value)}`).join("\n");

const formatName = (name) => (/[:\r\n]|^["\s]|\s$/.test(name) ? JSON.stringify(name) : name);

const formatValue = (value) => (parseValue(String(value)) === value && !/^$|^\s|\s$|[\r\n]/.test(value) ? value : JSON.stringify(value));

// [line, name, value] of each line; without name and value if it is invalid.
const parseLines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => line.match(/^("(?:[^"\\]|\\.)+"|[^:]*[^:\s])\s*:\s*(.+)$/s) || [line]);

function describeInvalidLine(text) {
  const invalid = parseLines(text).find(([, name]) => !name);
  return invalid ? `“${invalid[0]}”: expected “name: value”.` : "";
}

const parseMetadata = (text) => ({ __proto__: null, ...Object.fromEntries(parseLines(text).map(([, name, value]) => [name.startsWith('"') ? String(parseValue(name)) : name, parseValue(value)])) });

// Numbers, true, false and quoted text as in JSON; anything else is text.
function parseValue(text) {
  try {
    const value = JSON.parse(text);
    return ["number", "boolean", "string"].includes(typeof value) ? value : text;
  } catch {
    return text;
  }
}
