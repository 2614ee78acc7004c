// What a link leads to: a video, or the part of it from one second to another. Fetched when an address names one.

import { openedVideo, recordClosed } from "./history.js";
import { collectionPath, call } from "./api.js";
import { openClip } from "./clip_dialog.js";
import { currentName } from "./collections.js";
import { createToast, toastButton } from "./toasts.js";
import { thumbnailAt } from "./dom.js";

const TOLERANCE = 0.002; // seconds; the address has thousandths

export async function openLink(link) {
  const collection = currentName();
  const name = `Link to video ${link.video}`;
  let video;
  try {
    video = await call("GET", collectionPath(collection, "videos", encodeURIComponent(link.video)));
  } catch (error) {
    if (error.status !== 404) return offerRetry(createToast(name), error, link);
    createToast(name).fail(`There is no such video in ${collection}. It may have been deleted.`);
    if (openedVideo()?.video === link.video) recordClosed();
    return;
  }
  if (openedVideo()?.video !== link.video || currentName() !== collection) return; // somebody has gone elsewhere meanwhile
  const whole = { start: 0, end: video.duration };
  const selectedSpan = link.t === null ? whole : parseSpan(link.t, video);
  if (!selectedSpan) createToast(name).fail(`t: ${link.t.slice(0, 40)}; seconds below ${Math.ceil(video.duration)} were expected, such as 20 or 20-24.`);
  openClip(toClip(selectedSpan || whole, video));
}

function offerRetry(toast, error, link) {
  toast.fail(error.message, toastButton("Try again", () => {
    toast.remove();
    openLink(link);
  }));
}

// The part that ``t`` means: from one second to another, or the last clip that has begun at that second; null where it means none.
function parseSpan(t, { spans, duration }) {
  const [, start, end] = t.match(/^(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?$/)?.map(Number) || [];
  if (!(start < duration)) return null;
  if (end > start) return { start, end: Math.min(end, duration) };
  return Number.isNaN(end) ? spans.findLast((span) => span.start <= start + TOLERANCE) || null : null;
}

// As results are, with what is known of the clip where the part is one.
function toClip({ start, end }, video) {
  const span = video.spans.find((candidate) => Math.abs(candidate.start - start) < TOLERANCE && Math.abs(candidate.end - end) < TOLERANCE);
  if (span) return { ...span, clip_id: span.id, video };
  return { video, start, end, media_url: video.media_url, thumbnail_url: thumbnailAt(video, (start + end) / 2) };
}
