// The large screen: one video, or frames of it, played from clip to clip.

import { el, flipThrough, isPicture } from "./parts.js";

const NEAR_END = 0.05; // seconds

// ``onTime(seconds)`` follows the film. ``show(clip)`` plays another clip of the same video, ``jump(seconds)`` leads to
// any second of it, ``stop()`` ends it.
export function player(screen, first, onTime) {
  let clip = first;
  let stopFlipping = () => {};
  if (isPicture(clip)) {
    screen.replaceChildren(el("img", { src: clip.media_url.split("#")[0], alt: clip.video.title }));
    return { show() {}, jump() {}, stop: () => screen.replaceChildren() };
  }
  // Only the beginning: at the end of a span a browser pauses, also when somebody goes on beyond it.
  const address = `${clip.media_url.split("#")[0]}#t=${clip.start}`;
  const video = el("video", { src: address, controls: true, muted: true, autoplay: true, playsInline: true, poster: clip.thumbnail_url, "aria-label": clip.video.title });
  const image = el("img", { alt: clip.video.title });
  const flip = () => {
    stopFlipping();
    image.src = clip.thumbnail_url;
    stopFlipping = flipThrough(image, clip, 8);
    onTime(clip.start);
  };
  video.onerror = () => {
    screen.replaceChildren(image, el("p", { className: "strip", textContent: "Your browser cannot play this format; these are frames of the clip." }));
    flip();
  };
  // The viewer may leave the clip; only its own end leads back to its beginning.
  let wasInside = true;
  video.addEventListener("timeupdate", () => {
    const inside = video.currentTime < clip.end - NEAR_END;
    if (wasInside && !inside && !video.seeking && clip.end > clip.start) lead(clip.start);
    wasInside = inside;
    onTime(video.currentTime);
  });
  screen.replaceChildren(video);

  function lead(seconds) {
    video.currentTime = seconds;
    video.play().catch(() => {}); // where playing by itself is not allowed, the still stays
  }

  return {
    show(another) {
      clip = another;
      wasInside = true;
      if (video.isConnected) lead(clip.start);
      else flip();
    },
    jump(seconds) {
      wasInside = seconds < clip.end - NEAR_END;
      if (video.isConnected) lead(seconds);
      else {
        stopFlipping();
        image.src = clip.thumbnail_url.replace(/t=[^&]*$/, `t=${seconds.toFixed(2)}`);
        onTime(seconds);
      }
    },
    stop() {
      stopFlipping();
      video.onerror = null;
      video.pause();
      video.removeAttribute("src");
      screen.replaceChildren();
    },
  };
}
