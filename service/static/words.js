// Numbers in plain words.

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let place = 0;
  for (; bytes >= 1000 && place < units.length - 1; place += 1) bytes /= 1000;
  return `${place && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)}\u00a0${units[place]}`;
}

export function lasting(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))}\u00a0s`; // number and unit stay on one line
  if (seconds < 3600) return `${Math.round(seconds / 60)}\u00a0min`;
  return seconds < 48 * 3600 ? `${Math.round(seconds / 3600)}\u00a0h` : `${Math.round(seconds / 86400)}\u00a0days`;
}

// ``at``: Unix seconds.
export function ago(at) {
  const passed = Date.now() / 1000 - at;
  return passed < 10 ? "just now" : passed < 7 * 86400 ? `${lasting(passed)} ago` : day(at);
}

export const day = (at) => new Date(at * 1000).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });

// "1.2 MB/s, about 35 s left"; nothing as long as nobody can tell.
export const pace = (speed, left) => (speed > 0 ? [`${size(speed)}/s`, left > speed ? `about ${lasting(left / speed)} left` : ""].filter(Boolean).join(", ") : "");

export const facts = (...known) => known.filter(Boolean).join(" · ");
