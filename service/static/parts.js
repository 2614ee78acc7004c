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

// Says whose a button is to those who hear it without what stands around it.
export function of(name, button) {
  button.setAttribute("aria-label", `${button.textContent} ${name}`);
  return button;
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const tail = `${String(Math.floor(whole / 60) % 60).padStart(whole >= 3600 ? 2 : 1, "0")}:${String(whole % 60).padStart(2, "0")}`;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${tail}` : tail;
}

export const span = (start, end, to = "–") => (end > start ? `${clock(start)} ${to} ${clock(end)}` : "picture");

const isNumber = (value) => typeof value === "number";

export const percent = (value) => (value > 0.995 ? ">99%" : value < 0.005 ? "<1%" : `${Math.round(value * 100)}%`);

export const cosine = (value) => value.toFixed(2).replace("-", "−");

const KINDS = {
  fused: ["Fused", (v) => v.toFixed(2), "similarity and match together, 0 to 1"],
  match: ["Match", percent, "how sure the model is that sentence and clip belong together"],
  similarity: ["Similarity", cosine, "cosine of the two vectors, −1 to 1"],
};

function bar(kind, label, share, shown, title) {
  const fill = el("i");
  fill.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return el("span", { className: `score ${kind}`, title },
    el("span", { textContent: label }), el("span", { className: "meter" }, fill), el("b", { textContent: shown }));
}

const scored = (scores) => Object.entries(KINDS).filter(([kind]) => isNumber(scores[kind]));

// Bars of the scores that there are; where nobody looked closely there is only one, and a line that says so.
export function scoreBars(scores) {
  const bars = scored(scores).map(([kind, [label, write, meaning]]) => bar(kind, label, scores[kind], write(scores[kind]), `${label}: ${meaning}`));
  return el("span", { className: "scores" }, ...bars,
    isNumber(scores.match) ? null : el("span", { className: "meta", textContent: "not looked at closely" }));
}

// The score that results are ordered by, in words: "fused 0.81".
export function leading(scores) {
  const kind = isNumber(scores.fused) ? "fused" : isNumber(scores.similarity) ? "similarity" : "match";
  const [label, write] = KINDS[kind];
  return { kind, value: scores[kind], text: `${label.toLowerCase()} ${write(scores[kind])}` };
}

// Numbers as they are read out.
export const aloud = (text) => text.replace(">", "over ").replace("<", "under ").replaceAll("−", "minus ");

// "fused 0.81, match over 99%, similarity minus 0.02"
export function spoken(scores) {
  const words = scored(scores).map(([kind, [label, write]]) => `${label.toLowerCase()} ${write(scores[kind])}`);
  return aloud([...words, ...(isNumber(scores.match) ? [] : ["not looked at closely"])].join(", "));
}

export const answerBar = (answer) => bar("answer", answer.text, answer.probability, percent(answer.probability), "probability");

export const still = (clip, time) => clip.thumbnail_url.replace(/t=[^&]*$/, `t=${time.toFixed(2)}`);

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

export const isPicture = (clip) => clip.video.media_type.startsWith("image/");

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
