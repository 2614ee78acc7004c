"""Events of jobs as they go over the line: text/event-stream, as the HTML standard has it."""

from __future__ import annotations

from dataclasses import dataclass

from index.jobs.records import Event, Job, StateEvent
from service.job_views import item_view, job_view
from vitascope.job_states import FINAL_JOB_STATES

RETRY_MILLISECONDS = 2000
OPENING = f"retry: {RETRY_MILLISECONDS}\n\n".encode()
"""How long a client waits until it comes back."""
HEARTBEAT = b":\n\n"
"""A comment: nothing happens, and both sides see that the other is there."""
_ESCAPES = {character: f"\\u{character:04x}" for character in (0x85, 0x2028, 0x2029)}
"""JSON escapes of characters at which some clients, unlike the standard, end a line."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event as bytes. ``is_end``: the job was finished by it."""

    number: int
    data: bytes
    is_end: bool


def told(event: Event) -> Told:
    """A change of the job, with the job as it was then, or what became of a file."""
    if isinstance(event, StateEvent):
        data = _written("state", job_view(event.job).model_dump_json(), event.number)
        return Told(event.number, data, event.job.state in FINAL_JOB_STATES)
    return Told(event.number, _written("item", item_view(event.item).model_dump_json(), event.number), False)


def progress(job: Job) -> bytes:
    """How far the job is. Without a number: it is not kept, and there is nothing to come back to."""
    return _written("progress", job_view(job).model_dump_json())


def _written(kind: str, data: str, number: int | None = None) -> bytes:
    # JSON has no line breaks outside of its texts, and escapes those within.
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {kind}\ndata: {data.translate(_ESCAPES)}\n\n".encode()
