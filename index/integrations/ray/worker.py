"""What a worker of the cluster does: draw a file, fetch, decode and embed it, send back what is to be stored."""

from __future__ import annotations

import os
import pickle
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from index.integrations.ray.bundle_transfer import model_of
from index.integrations.ray.dispatcher import Drawn
from index.jobs.execution import prepare_item
from index.jobs.ingest import FileDescription, check_unchanged, decode_clips, embed_clips
from index.jobs.records import JobItem, JobOptions
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import Fetcher
from index.records import NewClip
from vitascope.engines.onnx_runtime import Device
from vitascope.errors import ClusterError, VitascopeError
from vitascope.media.limits import MediaLimits
from vitascope.model import Model
from vitascope.version import installed_version


@dataclass(frozen=True, slots=True)
class Order:
    """What is the same for all files of a run. ``bundle``: a reference to the result of ``bundle_files``."""

    version: str
    bundle: Any
    folders: tuple[str, ...]
    """That the source names, which every machine must see."""
    options: JobOptions
    policy: AccessPolicy
    limits: MediaLimits
    threads: int
    device: Device


class Known(NamedTuple):
    """The file's content seems to be in the collection; it was not decoded."""

    content_sha256: str


class Embedded(NamedTuple):
    """The file as it was when it was opened, and its clips."""

    description: FileDescription
    clips: list[NewClip]


class Result(NamedTuple):
    """What came of the item at ``position``; without one, why this worker can do nothing."""

    position: int | None
    outcome: Embedded | Known | Exception


class Worker:
    """The class that Ray Data makes actors of; called with a shift, it yields result after result until the desk is
    closed.
    """

    def __init__(self, order: Order, desk: Any) -> None:
        import ray

        self._order = order
        self._desk = desk
        self._name = uuid.uuid4().hex
        self._me = ray.get_runtime_context().current_actor
        self._model: Model | VitascopeError
        try:
            check_version(order.version)
            check_folders(order.folders)
            self._model = model_of(ray.get(order.bundle), order.threads, order.device)
        except VitascopeError as error:  # an actor that fails to start would tell its traceback, not why
            self._model = error

    def __call__(self, _: Any) -> Iterator[dict[str, Any]]:
        if isinstance(self._model, VitascopeError):
            yield {"result": [packed(Result(None, self._model))]}
            return
        while (drawn := self._draw()) is not None:
            outcome = embed(self._model, self._order, drawn.item, None if drawn.again else self._find)
            yield {"result": [packed(Result(drawn.item.position, outcome))]}

    def _draw(self) -> Drawn | None:
        import ray

        drawn: Drawn | None = ray.get(self._desk.draw.remote(self._name, self._me))
        return drawn

    def _find(self, content_sha256: str) -> Known | None:
        import ray

        return Known(content_sha256) if ray.get(self._desk.knows.remote(content_sha256)) else None


def embed(
    model: Model, order: Order, item: JobItem, find: Callable[[str], Known | None] | None
) -> Embedded | Known | Exception:
    """All stages before storing; whatever goes wrong is the item's outcome."""
    with tempfile.TemporaryDirectory(prefix="vitascope-media-") as folder:
        fetcher = Fetcher(Path(folder), order.policy, order.limits.max_bytes)
        try:
            opened = prepare_item(item, order.options, fetcher, order.limits, find or _nothing, model.decoder)
            if isinstance(opened, Known):
                return opened
            clips: list[NewClip] = []
            with opened.media:
                for batch in opened.description.clip_batches():
                    decoded = decode_clips(model, opened, batch, order.limits, threads=order.threads)
                    clips += embed_clips(model, batch, decoded)
                check_unchanged(opened)
            return Embedded(opened.description, clips)
        except Exception as error:
            return error
        finally:
            fetcher.close()


def _nothing(_: str) -> None:
    """Nothing is known."""


def packed(result: Result) -> bytes:
    """A result as one cell of a table: films differ in the number of their clips. Always possible."""
    try:
        blob = pickle.dumps(result)
        if isinstance(result.outcome, Exception):
            pickle.loads(blob)
        return blob
    except Exception as error:  # an error of a library that cannot travel
        told = RuntimeError(f"{type(result.outcome).__name__}: {result.outcome} ({error})")
        return pickle.dumps(Result(result.position, told))


def check_version(wanted: str) -> None:
    """Raise ClusterError unless this machine has the version of Vitascope that runs the job."""
    if (found := installed_version()) != wanted:
        raise ClusterError(f"a worker has vitascope {found}; {wanted}, as where the job runs, was expected")


def check_folders(wanted: Iterable[str]) -> None:
    """Raise ClusterError unless this machine sees these folders. Without that each file of them would fail."""
    for folder in wanted:
        if not Path(folder).is_dir():
            where = os.uname().nodename
            raise ClusterError(
                f"a worker on {where} does not see {folder}; a folder that all machines share was expected"
            )
