"""Types of arguments and of streamed events; `response_types` has the types of responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from vitascope.client.response_types import Job, JobItem, Operation
from vitascope.job_states import ItemState as ItemState
from vitascope.job_states import JobState as JobState

Metadata = Mapping[str, str | float | int | bool]
IndexKind = Literal["auto", "flat", "hnsw", "ivfpq"]
TokenEncoding = Literal["int8", "float16"]
Group = Literal["clip", "event", "video"]
OperationKind = Literal["backup", "export", "reembed"]
WebhookEvent = Literal["job.succeeded", "job.failed", "job.cancelled"]
DeliveryState = Literal["pending", "delivered", "failed"]
Scope = Literal["read", "write", "admin"]


class SearchOptions(TypedDict, total=False):
    """Options of ``search`` that are the same on every page."""

    query: Sequence[Mapping[str, Any]] | None
    limit: int
    where: Mapping[str, Any] | None
    rerank: int
    hybrid: bool | None
    min_similarity: float | None
    group: Group | None
    clips: int | None
    candidates: int | None
    include_query_clips: bool | None


class WaitOptions(TypedDict, total=False):
    """Options of ``wait_for_operation``."""

    interval: float
    on_change: Callable[[Operation], None] | None
    progress: bool


class JobChanged(TypedDict):
    """Event about a job. ``id`` is None for events that cannot be resumed from."""

    id: str | None
    event: Literal["state", "progress"]
    data: Job


class ItemChanged(TypedDict):
    """Event about a file of a job."""

    id: str | None
    event: Literal["item"]
    data: JobItem


JobEvent = JobChanged | ItemChanged
