// The player: a video played clip by clip, as a preview by the service if the browser cannot play the file, or else still frames.

import { el, isImage, isSound, playFrames, readOrigin, thumbnailAt } from "./dom.js";

const NEAR_END = 0.05; // seconds

const previewUrl = ({ media_url: url }, span = "") => url.replace(/\/media(#.*)?$/, `/preview${span}`);

// ``onTime(seconds)`` reports the position in the file, ``explainFailure()`` resolves to the reason if it cannot be played.
// ``show(clip)`` plays another clip of the video, ``seek(seconds)`` moves to any position.
export function createPlayer(screen, firstClip, start, onTime, explainFailure) {
  let clip = firstClip;
  let stopFrames = () => {};
  const image = el("img", { alt: clip.video.title });
  if (isImage(clip)) {
    image.src = clip.media_url.split("#")[0];
    image.onerror = () => {
      image.onerror = null;
      image.src = previewUrl(clip);
    };
    screen.replaceChildren(image);
    return { show() {}, seek() {}, unmute() {}, stop: () => screen.replaceChildren() };
  }
  // Without an end, where browsers would pause.
  const source = `${clip.media_url.split("#")[0]}#t=${start}`;
  const hasPictures = !isSound(clip);
  screen.classList.toggle("sound", !hasPictures);
  const video = el(hasPictures ? "video" : "audio", { src: source, controls: true, muted: hasPictures, autoplay: true, playsInline: true, ...(hasPictures ? { poster: clip.thumbnail_url } : {}), "aria-label": clip.video.title });
  const reason = el("p", { className: "strip", role: "status" });
  let preview = null; // {start, end} of the file that the video is a preview of
  let longest = Infinity; // seconds of a preview
  let hasFailed = false;
  let origin = 0; // seconds of the file's clock at its first frame
  const offset = () => (preview ? preview.start : -origin); // seconds of the file at the start of what plays
  const showFrames = (text) => {
    screen.replaceChildren(...(hasPictures ? [image] : []), reason);
    if (reason.textContent !== text) reason.textContent = text;
    stopFrames();
    if (hasPictures) image.src = clip.thumbnail_url;
    if (hasPictures && !clip.video.missing) stopFrames = playFrames(image, clip, 8);
    onTime(clip.start);
  };
  const showPreview = (start, end) => {
    preview = { start, end };
    showFrames("Preparing a preview…");
    video.src = previewUrl(clip, `?start=${start}&end=${end}`);
  };
  video.onloadeddata = () => {
    if (preview && video.duration < preview.end - preview.start - 1) {
      longest = video.duration;
      preview.end = preview.start + longest;
    }
    if (video.isConnected) return;
    stopFrames();
    screen.replaceChildren(video);
    video.play().catch(() => {});
  };
  video.onerror = async () => {
    if (!preview && hasPictures && !clip.video.missing) return showPreview(clip.start, clip.end);
    hasFailed = true;
    showFrames("");
    reason.textContent = await explainFailure();
  };
  // Only reaching the end of the clip restarts it.
  let wasInside = start < clip.end - NEAR_END;
  video.addEventListener("timeupdate", () => {
    const isInside = offset() + video.currentTime < clip.end - NEAR_END;
    if (wasInside && !isInside && !video.seeking && clip.end > clip.start) seek(clip.start);
    wasInside = isInside;
    onTime(offset() + video.currentTime);
  });
  video.addEventListener("ended", () => preview && seek(clip.start));
  screen.replaceChildren(video);
  readOrigin(video, clip, (seconds) => {
    origin = seconds;
    seek(start);
  });

  // Outside of the preview another one is needed.
  function seek(seconds) {
    if (preview && !(preview.start <= seconds && seconds < preview.end)) {
      const isInside = clip.start <= seconds && seconds < Math.min(clip.end, clip.start + longest);
      showPreview(isInside ? clip.start : seconds, isInside ? clip.end : Math.min(seconds + 10, clip.video.duration));
      return;
    }
    video.currentTime = seconds - offset();
    video.play().catch(() => {}); // autoplay is blocked: the poster stays
  }

  return {
    show(nextClip) {
      clip = nextClip;
      wasInside = true;
      if (hasFailed) showFrames(reason.textContent);
      else seek(clip.start);
    },
    seek(seconds) {
      wasInside = seconds < clip.end - NEAR_END;
      if (!hasFailed) return seek(seconds);
      stopFrames();
      if (hasPictures && !clip.video.missing) image.src = thumbnailAt(clip, seconds);
      onTime(seconds);
    },
    unmute: () => (video.muted = false),
    stop() {
      stopFrames();
      video.onerror = null;
      video.pause();
      video.removeAttribute("src");
      screen.replaceChildren();
    },
  };
}
