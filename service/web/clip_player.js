// The player: a video, or still frames of it, played clip by clip.

import { el, isImage, playFrames } from "./dom.js";

const NEAR_END = 0.05; // seconds

// ``onTime(seconds)`` reports the position, ``explainFailure()`` resolves to the reason if the video cannot be played. ``show(clip)`` plays another clip of the video, ``seek(seconds)`` moves to any position,
// ``stop()`` ends playback.
export function createPlayer(screen, firstClip, onTime, explainFailure) {
  let clip = firstClip;
  let stopFrames = () => {};
  if (isImage(clip)) {
    screen.replaceChildren(el("img", { src: clip.media_url.split("#")[0], alt: clip.video.title }));
    return { show() {}, seek() {}, stop: () => screen.replaceChildren() };
  }
  // Without an end: at the end of a media fragment browsers pause, even after the viewer has moved past it.
  const source = `${clip.media_url.split("#")[0]}#t=${clip.start}`;
  const video = el("video", { src: source, controls: true, muted: true, autoplay: true, playsInline: true, poster: clip.thumbnail_url, "aria-label": clip.video.title });
  const image = el("img", { alt: clip.video.title });
  const showFrames = () => {
    stopFrames();
    image.src = clip.thumbnail_url;
    stopFrames = playFrames(image, clip, 8);
    onTime(clip.start);
  };
  video.onerror = async () => {
    const reason = el("p", { className: "strip", role: "status" });
    screen.replaceChildren(image, reason);
    showFrames();
    reason.textContent = await explainFailure();
  };
  // The viewer may leave the clip; only reaching its end restarts it.
  let wasInside = true;
  video.addEventListener("timeupdate", () => {
    const isInside = video.currentTime < clip.end - NEAR_END;
    if (wasInside && !isInside && !video.seeking && clip.end > clip.start) seek(clip.start);
    wasInside = isInside;
    onTime(video.currentTime);
  });
  screen.replaceChildren(video);

  function seek(seconds) {
    video.currentTime = seconds;
    video.play().catch(() => {}); // autoplay is blocked: the poster stays
  }

  return {
    show(nextClip) {
      clip = nextClip;
      wasInside = true;
      if (video.isConnected) seek(clip.start);
      else showFrames();
    },
    seek(seconds) {
      wasInside = seconds < clip.end - NEAR_END;
      if (video.isConnected) seek(seconds);
      else {
        stopFrames();
        image.src = clip.thumbnail_url.replace(/t=[^&]*$/, `t=${seconds.toFixed(2)}`);
        onTime(seconds);
      }
    },
    stop() {
      stopFrames();
      video.onerror = null;
      video.pause();
      video.removeAttribute("src");
      screen.replaceChildren();
    },
  };
}
