// Opens the video, or span of a video, that the address names.

import { call, collectionPath } from "./api.js";
import { openClip, openedVideoId } from "./clip_dialog.js";
import { currentName } from "./collections.js";
import { thumbnailAt } from "./dom.js";
import { openedVideo, recordClosed } from "./history.js";
import { createToast, toastButton } from "./toasts.js";

const TOLERANCE = 0.002; // seconds; the address has milliseconds

export async function openLink(link) {
  if (link.video === openedVideoId()) return;
  const collection = currentName();
  const name = `Link to video ${link.video}`;
  let video;
  try {
    video = await call("GET", collectionPath(collection, "videos", encodeURIComponent(link.video)));
  } catch (error) {
    if (error.status !== 404) return offerRetry(createToast(name), error, link);
    createToast(name).fail(`Video not found in ${collection}. It may have been deleted.`);
    if (openedVideo()?.video === link.video) recordClosed();
    return;
  }
  if (openedVideo()?.video !== link.video || currentName() !== collection) return; // the user has moved on
  const whole = { start: 0, end: video.duration };
  const selectedSpan = link.t === null ? whole : parseSpan(link.t, video);
  if (!selectedSpan) createToast(name).fail(`t: ${link.t.slice(0, 40)}; expected seconds below ${Math.ceil(video.duration)}, such as 20 or 20-24.`);
  openClip(toClip(selectedSpan || whole, video));
}

function offerRetry(toast, error, link) {
  toast.fail(error.message, toastButton("Try again", () => {
    toast.remove();
    openLink(link);
  }));
}

// The span that ``t`` names: START-END, or the last clip that starts at or before START; null if invalid.
function parseSpan(t, { spans, duration }) {
  const [, start, end] = t.match(/^(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?$/)?.map(Number) || [];
  if (!(start < duration)) return null;
  if (end > start) return { start, end: Math.min(end, duration) };
  return Number.isNaN(end) ? spans.findLast((span) => span.start <= start + TOLERANCE) || null : null;
}

// A clip as in results, with the clip's id and text if the span is a clip.
function toClip({ start, end }, video) {
  const span = video.spans.find((candidate) => Math.abs(candidate.start - start) < TOLERANCE && Math.abs(candidate.end - end) < TOLERANCE);
  if (span) return { ...span, clip_id: span.id, video };
  return { video, start, end, media_url: video.media_url, thumbnail_url: thumbnailAt(video, (start + end) / 2) };
}
