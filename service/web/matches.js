// Why a result was returned: the signals that did, and the words that match, highlighted where they are.

import { el } from "./dom.js";
import { signalName } from "./signals.js";

const EXCERPT = 80; // characters
const BEFORE = 30; // of them before the first match
const MAX_WORDS = 50; // highlighted words of one text
const WELL_RANKED = 24; // by pictures or sound alone, the result would be on the first page
const TIMED = ["speech", "screen_text"];
const FIELDS = { speech: "text", screen_text: "screen_text", caption: "caption" };
const INVISIBLE = /[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]/g;
const WITHOUT_SPACES = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]/u;

// Text from files without control characters, and without invisible ones that change the direction or split words.
export const cleanText = (text) => text.normalize("NFC").replace(INVISIBLE, "").replace(/[\p{Cc}\s]+/gu, " ").trim();

// Speech, screen text or caption of a clip, cleaned; lines on screen are separated.
const textOf = (clip, signal) => cleanText((clip[FIELDS[signal]] || "").replaceAll("\n", signal === "screen_text" ? " · " : " "));

// The non-empty texts of a clip: [signal, text].
export const textsOf = (clip) => Object.keys(FIELDS).map((signal) => [signal, textOf(clip, signal)]).filter(([, text]) => text);

// Text as nodes, with these words in <mark>; ``text`` is clean.
export function highlight(text, words) {
  const pattern = wordPattern(words);
  const nodes = [];
  let end = 0;
  for (const match of pattern ? text.matchAll(pattern) : []) {
    nodes.push(text.slice(end, match.index), el("mark", { textContent: match[0] }));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}

// A part of a long text around its first match.
function excerpt(text, words) {
  if (text.length <= EXCERPT) return text;
  const pattern = wordPattern(words);
  const first = pattern ? Math.max(0, text.search(pattern)) : 0;
  const from = first > BEFORE ? text.lastIndexOf(" ", first - BEFORE) + 1 || first - BEFORE : 0;
  const part = text.slice(from, from + EXCERPT).trim();
  return `${from ? "…" : ""}${part}${from + EXCERPT < text.length ? "…" : ""}`;
}

function wordPattern(words) {
  const distinct = [...new Set(words.map(cleanText).filter(Boolean))].slice(0, MAX_WORDS).sort((a, b) => b.length - a.length);
  const patterns = distinct.map((word) => {
    const literal = word.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&");
    return WITHOUT_SPACES.test(word) ? literal : `(?<![\\p{L}\\p{N}\\p{M}])${literal}(?![\\p{L}\\p{N}\\p{M}])`;
  });
  return patterns.length ? new RegExp(patterns.join("|"), "giu") : null;
}

export const matchedWords = ({ signals }, signal) => (signals?.[signal]?.matches || []).map(({ text }) => text);

// The signals that returned a result. Pictures and sounds have a rank in most results; a low one beside words is no reason.
export function returningSignals({ signals }) {
  const all = Object.keys(signals || {});
  const reasons = all.filter((signal) => !["visual", "audio"].includes(signal) || signals[signal].rank <= WELL_RANKED);
  return reasons.length ? reasons : all;
}

// Matches in speech, screen text and caption: {signal, start, text, words}, with the second of the first match.
export const matchedTexts = (clip) => Object.keys(FIELDS).filter((signal) => clip.signals?.[signal]?.matches.length).map((signal) => {
  const words = matchedWords(clip, signal);
  // Words may be on screen before the clip begins.
  const starts = clip.signals[signal].matches.map(({ start, end }) => (signal === "screen_text" && end > clip.start ? Math.max(start, clip.start) : start));
  return { signal, start: Math.min(...starts), text: excerpt(textOf(clip, signal) || cleanText(words.join(" … ")), words), words };
});

// All matches of results in the order of time, {signal, start, text, clipId}; those of one signal within two seconds are one.
export function timedMatches(results) {
  const matches = results.flatMap((clip) => TIMED.flatMap((signal) =>
    (clip.signals?.[signal]?.matches || []).map(({ text, start }) => ({ signal, start, text: cleanText(text), clipId: clip.clip_id }))));
  const merged = [];
  for (const match of matches.sort((a, b) => a.start - b.start)) {
    const near = merged.findLast(({ signal }) => signal === match.signal);
    if (!near || match.start - near.start > 2) merged.push(match);
    else if (!near.text.split(" ").includes(match.text)) near.text += ` ${match.text}`;
  }
  return merged;
}

// The ranks by signal as parts of a score, see ``scoreParts``.
export const signalParts = ({ signals }) => Object.entries(signals || {}).map(([signal, { rank }]) => [signalName(signal), `no. ${rank}`, "rank by this signal alone"]);

// Signals that scores or answers are based on, if not pictures alone.
export const modalitiesNote = (modalities) =>
  modalities.length > 1 ? [el("p", { className: "facts", textContent: `From ${modalities.map(signalName).join(" and ").toLowerCase()}.` })] : [];
