// Follows a job by its events, with fetch, because EventSource cannot send a key.

import { call, request } from "./api.js";

export const FINISHED = ["succeeded", "failed", "cancelled"];
const FIRST_WAIT = 1000; // milliseconds, doubled after each failure
const MAX_WAIT_NO_STREAM = 4000; // while the service answers but offers no stream
const MAX_WAIT_UNREACHABLE = 30000; // while the service does not answer
const READ_TIMEOUT = 40000; // the service sends a heartbeat every 15 s

// Call ``onEvent(kind, data)`` with "state", "item" and "progress", and with "lost" and the error while there is no
// connection, until the job is finished or ``signal`` aborts. Without a stream the job is polled. Rejects if the job is gone.
export async function followJob(path, position, onEvent, signal) {
  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    let maxWait = MAX_WAIT_NO_STREAM;
    let failure = null;
    try {
      const isDone = await readStream(path, position, (...event) => {
        wait = FIRST_WAIT;
        onEvent(...event);
      }, signal);
      if (isDone) return;
    } catch (error) {
      if (signal.aborted) return;
      failure = error;
    }
    try {
      if (failure && isFinishedJob(await pollJob(path, onEvent, signal))) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) throw error;
      onEvent("lost", error);
      maxWait = MAX_WAIT_UNREACHABLE;
    }
    await sleep(Math.max((failure?.retryAfter || 0) * 1000, wait * (0.5 + Math.random() / 2)), signal);
    wait = Math.min(2 * wait, maxWait);
  }
}

const isFinishedJob = (job) => FINISHED.includes(job.state);

async function pollJob(path, onEvent, signal) {
  const job = await call("GET", path, undefined, signal);
  onEvent("state", job);
  return job;
}

// Whether the job is finished; false if only the stream has ended.
async function readStream(path, position, onEvent, signal) {
  const timeout = new AbortController();
  let timer;
  const resetTimeout = () => {
    clearTimeout(timer);
    timer = setTimeout(() => timeout.abort(), READ_TIMEOUT);
  };
  resetTimeout();
  try {
    const headers = { Accept: "text/event-stream", ...(position.lastEventId === null ? {} : { "Last-Event-ID": position.lastEventId }) };
    const response = await request("GET", `${path}/events`, { headers, signal: AbortSignal.any([signal, timeout.signal]) });
    if (response.status === 204) return true;
    for await (const { id, event, data } of parseEvents(response.body, resetTimeout)) {
      const job = JSON.parse(data);
      onEvent(event, job);
      position.lastEventId = id ?? position.lastEventId;
      if (event === "state" && isFinishedJob(job)) return true;
    }
    return false;
  } finally {
    clearTimeout(timer);
    timeout.abort();
  }
}

async function* parseEvents(body, resetTimeout) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    resetTimeout();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.match(/^([^:]*):? ?(.*)$/).slice(1)));
      if (fields.data) yield fields;
    }
  }
}

const sleep = (milliseconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
});
