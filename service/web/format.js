// Numbers, sizes, durations and dates as text.

export const formatCount = (number, singular) => `${number.toLocaleString("en")} ${singular}${number === 1 ? "" : "s"}`;

export function formatBytes(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)}\u00a0${units[unit]}`;
}

export function formatDuration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))}\u00a0s`; // no line break before the unit
  if (seconds < 3600) return `${Math.round(seconds / 60)}\u00a0min`;
  return seconds < 48 * 3600 ? `${Math.round(seconds / 3600)}\u00a0h` : `${Math.round(seconds / 86400)}\u00a0days`;
}

// ``timestamp``: Unix seconds.
export function formatAge(timestamp) {
  const elapsed = Date.now() / 1000 - timestamp;
  return elapsed < 10 ? "just now" : elapsed < 7 * 86400 ? `${formatDuration(elapsed)} ago` : formatDate(timestamp);
}

export const formatDate = (timestamp) => new Date(timestamp * 1000).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });

// "1.2 MB/s, about 35 s left"; empty while the rate is unknown.
export const formatRate = (speed, left) => (speed > 0 ? [`${formatBytes(speed)}/s`, left > speed ? `about ${formatDuration(left / speed)} left` : ""].filter(Boolean).join(", ") : "");

export const joinFacts = (...parts) => parts.filter(Boolean).join(" · ");
