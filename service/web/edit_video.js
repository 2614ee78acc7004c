// The dialog that edits a video's title, metadata and subtitles.

import { call, collectionPath } from "./api.js";
import { confirmAction } from "./confirm.js";
import { el, field } from "./dom.js";

// Resolves to the video after the changes; to null if cancelled.
export async function editVideo(collection, video) {
  const subtitles = el("input", { type: "file", accept: ".srt,.vtt" });
  const answers = await confirmAction({
    title: `Edit ${video.title}`, text: "One metadata field per line. A number in quotation marks is text.", action: "Save",
    fields: [
      field("Title", el("input", { name: "title", value: video.title, maxLength: 500, required: true, autocomplete: "off" })),
      field("Metadata", el("textarea", { name: "metadata", rows: 4, value: formatMetadata(video.metadata), placeholder: "camera: north", spellcheck: false })),
      field("Replace subtitles by a file (SRT or WebVTT)", subtitles),
    ],
  });
  if (!answers) return null;
  const metadata = parseMetadata(answers.metadata);
  for (const key of Object.keys(video.metadata)) metadata[key] ??= null; // deletes it
  const [file] = subtitles.files;
  const changes = { title: answers.title.trim(), metadata, ...(file ? { subtitles: await file.text() } : {}) };
  return call("PATCH", collectionPath(collection, "videos", video.id), changes);
}

const formatMetadata = (metadata) => Object.entries(metadata).map(([key, value]) => `${key}: ${formatValue(value)}`).join("\n");

const formatValue = (value) => (parseValue(String(value)) === value && String(value).trim() === value && !value.includes("\n") ? value : JSON.stringify(value));

function parseMetadata(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(lines.map((line) => {
    const [, key, value] = line.match(/^([^:]+):(.*)$/) || [];
    if (!key || !value.trim()) throw new Error(`Metadata: “${line}”; “name: value” was expected.`);
    return [key.trim(), parseValue(value.trim())];
  }));
}

// Numbers, true, false and quoted text as in JSON; anything else is text.
function parseValue(text) {
  try {
    const value = JSON.parse(text);
    return ["number", "boolean", "string"].includes(typeof value) ? value : text;
  } catch {
    return text;
  }
}
