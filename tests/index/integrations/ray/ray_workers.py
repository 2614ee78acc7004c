"""Ray workers that die or hang at certain files; importable by the worker processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray

from index.integrations.ray import worker
from index.jobs import ingest
from tests.index.jobs.job_process import poisoned

POISON = "002.png"
HELD = "held.png"
ENDLESS = "010.png"
FOR_EVER = 3600.0


def marker(file: Path) -> Path:
    """Return the file to which a hanging worker writes its node."""
    return file.with_suffix(".node")


class TroubledWorker(worker.Worker):
    """Dies while it decodes ``POISON``; the first that decodes ``HELD`` writes its node and hangs."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        decode = poisoned(POISON)

        def troubled(model: Any, opened: Any, *rest: Any, **options: Any) -> Any:
            node = marker(opened.description.path)
            if opened.description.path.name == HELD and not node.exists():
                part = node.with_suffix(".part")
                part.write_text(ray.get_runtime_context().get_node_id())
                part.rename(node)
                time.sleep(FOR_EVER)
            return decode(model, opened, *rest, **options)

        ingest.decode_clips = troubled


class EndlessWorker(worker.Worker):
    """Hangs while it decodes ``ENDLESS``, until the driver is killed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        decode = ingest.decode_clips

        def endless(model: Any, opened: Any, *rest: Any, **options: Any) -> Any:
            if opened.description.path.name == ENDLESS:
                time.sleep(FOR_EVER)
            return decode(model, opened, *rest, **options)

        ingest.decode_clips = endless
