// The card of a search result: scores, and why it was returned.

import { describeFit, el, fitBar, formatPercent, formatSpan, formatTime, spokenNumbers, thumbnailAt } from "./dom.js";
import { cleanText, highlight, matchedTexts, returningSignals } from "./matches.js";
import { resultTile, shortPath } from "./results.js";
import { signalName } from "./signals.js";

// ``rank`` starts at 1.
export function resultCard(clip, rank, onOpen, onFindSimilar) {
  const shown = momentOf(clip);
  const { start, end } = shown;
  const score = clip.moment ? ` (${formatPercent(clip.moment.score)})` : "";
  const time = formatSpan(start, end) + score;
  const conditions = (clip.conditions || []).map(({ text, weight, met }) => {
    const name = weight < 0 ? `not ${text}` : text;
    return { text: `${met ? "✓" : "✗"} ${name}`, spoken: `${name}: ${met ? "met" : "not met"}`, met };
  });
  const matches = matchedTexts(clip);
  const speech = matches.some(({ signal }) => signal === "speech") ? "" : cleanText(clip.text).slice(0, 120);
  const details = [speech, clip.clip_count > 1 ? `best of ${clip.clip_count} clips` : ""].filter(Boolean).join(" · ");
  const signals = returningSignals(clip);
  const labels = signals.filter((signal) => !matches.some((match) => match.signal === signal)); // matches have their own
  const label = [`${rank}. ${clip.video.title}`, formatSpan(start, end, "to") + spokenNumbers(score), describeFit(clip), ...conditions.map(({ spoken }) => spoken),
    shortPath(clip.video), clip.video.missing ? "file missing" : "", details, signals.length ? `found by ${signals.map(signalName).join(", ").toLowerCase()}` : ""].filter(Boolean).join(", ");
  const cell = resultTile(shown, () => onOpen(clip, clip.moment?.start), { rank, time, label },
    details ? el("span", { className: "meta", textContent: details, title: clip.text }) : null,
    conditions.length ? el("span", { className: "met-conditions" }, ...conditions.map(({ text, met }) => el("span", { className: met ? "met" : "unmet", textContent: text }))) : null,
    fitBar(clip), labels.length ? el("span", { className: "signals" }, ...labels.map((signal) => el("span", { className: "chip", textContent: signalName(signal) }))) : null);
  const button = el("button", { type: "button", className: "like-this", textContent: "Find similar", "aria-label": `Find similar: ${rank}. ${clip.video.title}`, onclick: () => onFindSimilar(clip) });
  cell.append(button, ...matches.map((match) => matchButton(clip, rank, match, onOpen)));
  return cell;
}

// The moment of a refined result, with its own picture and preview; otherwise the clip.
function momentOf(clip) {
  if (!clip.moment) return clip;
  const { start, end } = clip.moment;
  if (end <= start) return clip; // a picture
  return { ...clip, start, end, media_url: `${clip.video.media_url}#t=${start},${end}`, thumbnail_url: thumbnailAt(clip, (start + end) / 2) };
}

// A matching text with its words highlighted; a click plays the clip from there.
function matchButton(clip, rank, { signal, start, text, words }, onOpen) {
  const isTimed = clip.end > clip.start;
  const label = [isTimed ? `Play ${rank}. ${clip.video.title} from ${formatTime(start)}` : `Open ${rank}. ${clip.video.title}`, `${signalName(signal).toLowerCase()}: ${text}`].join(", ");
  return el("button", { type: "button", className: "matched", "aria-label": label, onclick: () => onOpen(clip, isTimed ? start : undefined) },
    isTimed ? el("span", { className: "facts", textContent: `▶ ${formatTime(start)}` }) : null, el("span", { className: "chip", textContent: signalName(signal) }),
    el("bdi", {}, ...highlight(text, words)));
}
