// What a link leads to: a video, or the part of it from one second to another. Fetched when an address names one.

import { linked, noteClosed } from "./address.js";
import { at, call } from "./api.js";
import { openClip } from "./clip.js";
import { chosenName } from "./collections.js";
import { line, small } from "./notices.js";
import { still } from "./parts.js";

const SAME = 0.002; // seconds; the address has thousandths

export async function openLink(link) {
  const collection = chosenName();
  const name = `Link to video ${link.video}`;
  let video;
  try {
    video = await call("GET", at(collection, "videos", encodeURIComponent(link.video)));
  } catch (error) {
    if (error.status !== 404) return retry(line(name), error, link);
    line(name).fail(`There is no such video in ${collection}. It may have been deleted.`);
    if (linked()?.video === link.video) noteClosed();
    return;
  }
  if (linked()?.video !== link.video || chosenName() !== collection) return; // somebody has gone elsewhere meanwhile
  const whole = { start: 0, end: video.duration };
  const part = link.t === null ? whole : partOf(link.t, video);
  if (!part) line(name).fail(`t: ${link.t.slice(0, 40)}; seconds below ${Math.ceil(video.duration)} were expected, such as 20 or 20-24.`);
  openClip(clipAt(part || whole, video));
}

function retry(shown, error, link) {
  shown.fail(error.message, small("Try again", () => {
    shown.remove();
    openLink(link);
  }));
}

// The part that ``t`` means: from one second to another, or the last clip that has begun at that second; null where it means none.
function partOf(t, { spans, duration }) {
  const [, start, end] = t.match(/^(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?$/)?.map(Number) || [];
  if (!(start < duration)) return null;
  if (end > start) return { start, end: Math.min(end, duration) };
  return Number.isNaN(end) ? spans.findLast((span) => span.start <= start + SAME) || null : null;
}

// As results are, with what is known of the clip where the part is one.
function clipAt({ start, end }, video) {
  const span = video.spans.find((each) => Math.abs(each.start - start) < SAME && Math.abs(each.end - end) < SAME);
  if (span) return { ...span, clip_id: span.id, video };
  return { video, start, end, media_url: video.media_url, thumbnail_url: still(video, (start + end) / 2) };
}
