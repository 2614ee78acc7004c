// DOM helpers, scores, and clip previews.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Name a button for screen readers: its text and the item it belongs to.
export function labelButton(name, button) {
  button.setAttribute("aria-label", `${button.textContent} ${name}`);
  return button;
}

export function formatTime(seconds) {
  const total = Math.floor(seconds);
  const rest = `${String(Math.floor(total / 60) % 60).padStart(total >= 3600 ? 2 : 1, "0")}:${String(total % 60).padStart(2, "0")}`;
  return total >= 3600 ? `${Math.floor(total / 3600)}:${rest}` : rest;
}

export const formatSpan = (start, end, to = "–") => (end > start ? `${formatTime(start)} ${to} ${formatTime(end)}` : "picture");

export const formatPercent = (value) => (value > 0.995 ? ">99%" : value < 0.005 ? "<1%" : `${Math.round(value * 100)}%`);

export const formatCosine = (value) => value.toFixed(2).replace("-", "−");

function bar(kind, label, ratio, valueText, title) {
  const fill = el("i");
  fill.style.setProperty("--share", Math.max(0, Math.min(1, ratio)));
  return el("span", { className: `score ${kind}`, title },
    el("span", { textContent: label }), el("span", { className: "meter" }, fill), el("b", { textContent: valueText }));
}

// The one score of a result: its probability to fit the query; the similarity where the model gives no probability.
export function fitOf({ relevance, fused, match, similarity }) {
  const probability = relevance ?? fused ?? match ?? null; // caption scores have no relevance
  return probability === null
    ? { isProbability: false, value: similarity, text: `similarity ${formatCosine(similarity)}` }
    : { isProbability: true, value: probability, text: `fit ${formatPercent(probability)}` };
}

// A bar of the score; without a percentage where it is no probability.
export function fitBar(scores) {
  const { isProbability, value } = fitOf(scores);
  return bar("fit", "Fit", value, isProbability ? formatPercent(value) : "",
    isProbability ? "Estimated probability that the clip fits" : "Similarity of the clip; this model estimates no probability");
}

// The parts of the score, [name, value, explanation] each.
export const scoreParts = ({ relevance, conditions, similarity, match, fused }) => [
  ["Fit", relevance ?? fused, formatPercent, "estimated probability that the clip fits the query"],
  ...(conditions || []).map(({ text, relevance: fit, weight }) => [weight < 0 ? `not “${text}”` : `“${text}”`, fit, formatPercent, "fit of this sentence"]),
  ["Similarity", similarity, formatCosine, "cosine of the embeddings of query and clip, −1 to 1"],
  ["Match", match, formatPercent, "estimate of the fusion model, which looks at query and clip together"],
  ["Fused", fused, (value) => value.toFixed(2), "similarity and match combined"],
].filter(([, value]) => typeof value === "number").map(([name, value, format, explanation]) => [name, format(value), explanation]);

// Numbers as screen readers should speak them.
export const spokenNumbers = (text) => text.replace(">", "over ").replace("<", "under ").replaceAll("−", "minus ");

export const describeFit = (scores) => spokenNumbers(fitOf(scores).text);

export const answerBar = (answer) => bar("answer", answer.text, answer.probability, formatPercent(answer.probability), "probability");

export const thumbnailAt = (clip, time) => clip.thumbnail_url.replace(/t=[^&]*$/, `t=${time.toFixed(2)}`);

// Show frames of a clip in turn, for formats that the browser cannot play.
export function playFrames(image, clip, frames = 6) {
  if (clip.end <= clip.start) return () => {};
  let frame = 0;
  const timer = setInterval(() => {
    frame = (frame + 1) % frames;
    image.src = thumbnailAt(clip, clip.start + ((frame + 0.5) * (clip.end - clip.start)) / frames);
  }, 500);
  return () => {
    clearInterval(timer);
    image.src = clip.thumbnail_url;
  };
}

// A file without pictures.
export const isSound = (clip) => clip.video.width === 0;

export const describeSize = (video) => (isSound({ video }) ? "sound" : `${video.width}×${video.height}`);

export const isImage = (clip) => clip.video.media_type.startsWith("image/");

// Form fields

export const field = (text, input) => el("label", { className: "field" }, el("span", { textContent: text }), input);

export const checkbox = (name, text, isOn = false, properties = {}) =>
  el("label", { className: "check" }, el("input", { type: "checkbox", name, checked: isOn, ...properties }), ` ${text}`);

// ``options``: pairs of value and text.
export function select(options, value = null, properties = {}) {
  const element = el("select", properties, ...options.map(([optionValue, text]) => el("option", { value: optionValue, textContent: text })));
  if (value !== null) element.value = value;
  return element;
}

export const INDEX_KINDS = [
  ["auto", "automatic: by number of clips"],
  ["flat", "flat: exact search"],
  ["hnsw", "hnsw: fast, more memory"],
  ["ivfpq", "ivfpq: compact, for millions of clips"],
];

// Previews

// A clip's thumbnail that plays on ``play()`` and stops on ``stop()``.
export function preview(clip) {
  if (isSound(clip)) return { screen: el("span", { className: "screen sound" }), play() {}, stop() {} };
  const image = el("img", { src: clip.thumbnail_url, alt: "", loading: "lazy", decoding: "async" });
  const screen = el("span", { className: "screen" }, image);
  let stop = null;
  image.onerror = () => (image.src.endsWith(clip.thumbnail_url) ? image.remove() : (image.src = clip.thumbnail_url)); // browsers do not show all pictures
  return {
    screen,
    play() {
      if (stop || clip.video.missing) return;
      if (isImage(clip)) {
        image.src = clip.media_url.split("#")[0]; // animated images play by themselves
        stop = () => (image.src = clip.thumbnail_url);
        return;
      }
      const video = el("video", { muted: true, playsInline: true, preload: "auto", src: clip.media_url });
      let stopFrames = null;
      video.onerror = () => {
        video.remove();
        if (stop) stopFrames = playFrames(image, clip);
      };
      loopClip(video, clip);
      video.onplaying = () => screen.append(video);
      video.play().catch(() => {});
      stop = () => {
        video.onerror = null;
        video.pause();
        video.remove();
        video.removeAttribute("src");
        if (stopFrames) stopFrames();
      };
    },
    stop() {
      if (stop) stop();
      stop = null;
    },
  };
}

function loopClip(video, clip) {
  if (clip.end <= clip.start) return;
  let origin = 0;
  const restart = () => {
    video.currentTime = origin + clip.start;
    video.play().catch(() => {});
  };
  video.addEventListener("timeupdate", () => (video.currentTime >= origin + clip.end - 0.05 || video.currentTime < origin + clip.start - 0.5) && restart());
  video.addEventListener("ended", restart);
  readOrigin(video, clip, (seconds) => (origin = seconds));
}

// Calls ``use`` with the time of the first frame if it is not 0, as in recorded live streams.
export function readOrigin(video, clip, use) {
  video.addEventListener("loadedmetadata", () => {
    if (!(video.duration > clip.video.duration + 1)) return;
    const first = el("video", { src: clip.media_url.split("#")[0], preload: "auto" });
    first.requestVideoFrameCallback?.((_, { mediaTime }) => mediaTime && use(mediaTime));
  });
}
