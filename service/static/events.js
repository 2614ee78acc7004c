// What happens to a job, as it happens. Read with fetch, because EventSource cannot send a key.

import { ask, call } from "./api.js";

export const FINISHED = ["succeeded", "failed", "cancelled"];
const FIRST_WAIT = 1000; // milliseconds, doubled each time
const WHERE_REFUSED = 4000; // at most, where the service answers but gives no stream
const WHERE_SILENT = 30000; // at most, where it does not answer
const SILENCE = 40000; // the service says something every 15 s

// Calls ``onEvent(kind, data)`` with "state", "item" and "progress" as the service tells them, and with "lost" and the
// error as long as it cannot be heard, until the job is finished or ``signal`` aborts. Where no stream is to be had, the
// job is asked for instead. ``seen.last`` is the number of the last event: whoever comes back with it misses nothing.
// Rejects where the job is gone.
export async function follow(address, seen, onEvent, signal) {
  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    let longest = WHERE_REFUSED;
    let refusal = null;
    try {
      const isOver = await listen(address, seen, (...event) => {
        wait = FIRST_WAIT;
        onEvent(...event);
      }, signal);
      if (isOver) return;
    } catch (error) {
      if (signal.aborted) return;
      refusal = error;
    }
    try {
      if (refusal && isOver(await look(address, onEvent, signal))) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) throw error;
      onEvent("lost", error);
      longest = WHERE_SILENT;
    }
    await asleep(Math.max((refusal?.wait || 0) * 1000, wait * (0.5 + Math.random() / 2)), signal);
    wait = Math.min(2 * wait, longest);
  }
}

const isOver = (job) => FINISHED.includes(job.state);

async function look(address, onEvent, signal) {
  const job = await call("GET", address, undefined, signal);
  onEvent("state", job);
  return job;
}

// Whether the job is finished; false where only the stream has ended.
async function listen(address, seen, onEvent, signal) {
  const broken = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => broken.abort(), SILENCE);
  };
  heard();
  try {
    const headers = { Accept: "text/event-stream", ...(seen.last === null ? {} : { "Last-Event-ID": seen.last }) };
    const response = await ask("GET", `${address}/events`, { headers, signal: AbortSignal.any([signal, broken.signal]) });
    if (response.status === 204) return true;
    for await (const { id, event, data } of eventsIn(response.body, heard)) {
      const told = JSON.parse(data);
      onEvent(event, told);
      seen.last = id ?? seen.last;
      if (event === "state" && isOver(told)) return true;
    }
    return false;
  } finally {
    clearTimeout(timer);
    broken.abort();
  }
}

async function* eventsIn(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.match(/^([^:]*):? ?(.*)$/).slice(1)));
      if (fields.data) yield fields;
    }
  }
}

const asleep = (milliseconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
});
