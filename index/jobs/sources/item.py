"""What every source yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from index.records import Scalar


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One video of a source: ``queued`` to be indexed, or already decided with the ``reason``.

    ``uri`` is an absolute path, a URL, or ``tar://MEMBER::ARCHIVE``; for what names no video, such as a
    malformed line of a list, it is the place. ``title`` and ``metadata`` are the item's own.
    """

    uri: str
    state: Literal["queued", "failed", "skipped"] = "queued"
    reason: str | None = None
    title: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
