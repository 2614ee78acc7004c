"""What an endpoint is told when a job has ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from index.collection import Collection
from index.jobs.jobs import list_items
from index.jobs.records import StateEvent
from service.job_views import job_view
from service.webhooks.records import EVENT_TYPES, Endpoint, EventType
from vitascope.job_states import FAILED_ITEM_STATES

MAX_FAILURES = 10
"""Files of a job that are named; all of them are asked for at ``/items?state=failed``."""
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Message:
    """``id``: the same whenever the same is told to the same endpoint again, so that receivers know it."""

    id: str
    endpoint: str
    type: EventType
    body: bytes


def messages_of(collection: Collection, end: StateEvent, endpoints: Sequence[Endpoint]) -> list[Message]:
    """One for each endpoint that wants to hear of this end, and was there when it happened. Raises StorageError."""
    type_ = next(each for each in EVENT_TYPES if each == f"job.{end.job.state}")
    told = [endpoint for endpoint in endpoints if type_ in endpoint.events and endpoint.created_at <= end.at]
    if not told:
        return []
    body = _body(collection, type_, end)
    return [Message(_message_id(collection.name, end, endpoint), endpoint.id, type_, body) for endpoint in told]


def _message_id(name: str, end: StateEvent, endpoint: Endpoint) -> str:
    told = json.dumps([endpoint.id, name, end.job.id, end.number, end.at])
    return f"msg_{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _body(collection: Collection, type_: EventType, end: StateEvent) -> bytes:
    failures = [
        item for state in FAILED_ITEM_STATES for item in list_items(collection, end.job.id, state, MAX_FAILURES)
    ]
    data = {
        "collection": collection.name,
        "job": job_view(end.job).model_dump(mode="json"),
        "failures": [
            {"path": item.path, "state": item.state, "reason": (item.reason or "")[:MAX_REASON]}
            for item in failures[:MAX_FAILURES]
        ],
    }
    when = datetime.fromtimestamp(end.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": type_, "timestamp": when, "data": data}, ensure_ascii=False).encode()
