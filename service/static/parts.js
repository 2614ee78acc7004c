// Pieces of the page: elements, scores, and clips that play where they should.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const tail = `${String(Math.floor(whole / 60) % 60).padStart(whole >= 3600 ? 2 : 1, "0")}:${String(whole % 60).padStart(2, "0")}`;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${tail}` : tail;
}

export const span = (start, end) => (end > start ? `${clock(start)} – ${clock(end)}` : "picture");

const percent = (value) => (value > 0.995 ? ">99%" : value < 0.005 ? "<1%" : `${Math.round(value * 100)}%`);

const KINDS = {
  fused: ["Fused", (v) => v.toFixed(2), "similarity and match together, 0 to 1"],
  match: ["Match", percent, "how sure the model is that sentence and clip belong together"],
  similarity: ["Similarity", (v) => v.toFixed(2), "cosine of the two vectors, −1 to 1"],
};

function bar(kind, label, share, shown, title) {
  const fill = el("i");
  fill.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return el("div", { className: `score ${kind}`, title },
    el("span", { textContent: label }), el("span", { className: "meter" }, fill), el("b", { textContent: shown }));
}

export function scoreBars(scores) {
  const bars = Object.entries(KINDS).map(([kind, [label, write, meaning]]) => {
    const value = scores[kind];
    if (value !== null && value !== undefined) return bar(kind, label, value, write(value), `${label}: ${meaning}`);
    return bar(`${kind} none`, label, 0, "–", `${label}: this clip was not looked at closely`);
  });
  return el("div", { className: "scores" }, ...bars);
}

export const answerBar = (answer) => bar("answer", answer.text, answer.probability, percent(answer.probability), "probability");

const still = (clip, time) => clip.thumbnail_url.replace(/t=[^&]*$/, `t=${time.toFixed(2)}`);

// Frames of a clip one after the other: for formats that the browser cannot play.
export function flipThrough(image, clip, frames = 6, pause = 500) {
  if (clip.end <= clip.start) return () => {};
  let number = 0;
  const timer = setInterval(() => {
    number = (number + 1) % frames;
    image.src = still(clip, clip.start + ((number + 0.5) * (clip.end - clip.start)) / frames);
  }, pause);
  return () => {
    clearInterval(timer);
    image.src = clip.thumbnail_url;
  };
}

const isPicture = (clip) => clip.video.media_type.startsWith("image/");

// A clip's screen: a still that comes alive with play() and rests with rest().
export function preview(clip) {
  const image = el("img", { src: clip.thumbnail_url, alt: "", loading: "lazy", decoding: "async" });
  const screen = el("span", { className: "screen" }, image);
  image.onerror = () => image.remove();
  let stop = null;
  return {
    screen,
    play() {
      if (stop) return;
      if (isPicture(clip)) {
        image.src = clip.media_url.split("#")[0]; // animated pictures run by themselves
        stop = () => (image.src = clip.thumbnail_url);
        return;
      }
      const video = el("video", { muted: true, playsInline: true, preload: "auto", src: clip.media_url });
      let flipping = null;
      video.onerror = () => {
        video.remove();
        if (stop) flipping = flipThrough(image, clip);
      };
      keepInside(video, clip);
      video.onplaying = () => screen.append(video);
      video.play().catch(() => {});
      stop = () => {
        video.pause();
        video.remove();
        video.removeAttribute("src");
        if (flipping) flipping();
      };
    },
    rest() {
      if (stop) stop();
      stop = null;
    },
  };
}

// Media fragments only say where to begin and pause once: begin again at the end.
function keepInside(video, clip) {
  if (clip.end <= clip.start) return;
  video.addEventListener("timeupdate", () => {
    if (video.currentTime >= clip.end - 0.05 || video.currentTime < clip.start - 0.5) {
      video.currentTime = clip.start;
      video.play().catch(() => {});
    }
  });
  video.addEventListener("ended", () => {
    video.currentTime = clip.start;
    video.play().catch(() => {});
  });
}

// The large screen in the panel; returns what stops it.
export function showLarge(screen, clip) {
  screen.replaceChildren();
  if (isPicture(clip)) {
    screen.append(el("img", { src: clip.media_url.split("#")[0], alt: clip.video.title }));
    return () => screen.replaceChildren();
  }
  const video = el("video", { src: clip.media_url, controls: true, muted: true, autoplay: true, playsInline: true, poster: clip.thumbnail_url });
  let stopFlipping = () => {};
  video.onerror = () => {
    const image = el("img", { src: clip.thumbnail_url, alt: clip.video.title });
    stopFlipping = flipThrough(image, clip, 8);
    screen.replaceChildren(image, el("p", { className: "strip", textContent: "Your browser cannot play this format; these are frames of the clip." }));
  };
  // The viewer may leave the clip; only its own end leads back to its beginning.
  let wasInside = true;
  video.addEventListener("timeupdate", () => {
    const inside = video.currentTime < clip.end - 0.05;
    if (wasInside && !inside && !video.seeking && clip.end > clip.start) {
      video.currentTime = clip.start;
      video.play().catch(() => {});
    }
    wasInside = inside;
  });
  screen.append(video);
  return () => {
    stopFlipping();
    video.pause();
    video.removeAttribute("src");
    screen.replaceChildren();
  };
}
