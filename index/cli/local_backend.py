"""Collections in a data folder, for commands."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, Unpack

from index.cli.backend import JSON, OnProgress, SearchOptions
from index.cli.recognition_options import with_absolute_model
from index.collection import Collection
from index.collection_store import TOKEN_ENCODING, CollectionStore
from index.jobs import jobs as index_jobs
from index.jobs.records import Job, JobItem, JobOptions
from index.jobs.sources.source_types import Source, read_source
from index.pagination import decode_cursor, paginate
from index.serializers import clip_dict, collection_dict, job_dict, video_dict, video_dicts
from index.storage.filters import parse_filter
from index.storage.fulltext import check_stemming
from vitascope.cli.options import collections_folder, default_roots, default_vectors
from vitascope.errors import CollectionNotFound, Conflict, VitascopeError
from vitascope.job_states import FINAL_JOB_STATES, ItemState, JobState

if TYPE_CHECKING:
    from index.cli.local_recognition import LocalRecognition
    from index.integrations.ray.executor import RayCluster
    from index.jobs.recognition_settings import RecognitionChanges, RecognitionSettings
    from index.transfer.media import AllowedPaths
    from vitascope.engines.onnx_runtime import Device
    from vitascope.model import Model

POLL_SECONDS = 0.5
"""Seconds between two checks of a job that is paused or that another process runs."""
MISSING_HINT = "`vitascope index FOLDER` creates one"


class LocalBackend:
    """Backend of a data folder; collections and the model are opened when they are needed.

    Args:
        data: the data folder.
        bundle, threads, device, engine, optimize: arguments of ``Model.open``.
        vectors: vector backend of new collections; None: VITASCOPE_VECTOR_STORE.
        roots: folders that may contain the media files of restored or imported collections.
    """

    def __init__(
        self,
        data: Path,
        *,
        bundle: Path | None = None,
        threads: int = 0,
        device: Device = "auto",
        engine: str = "onnxruntime",
        optimize: bool = True,
        vectors: str | None = None,
        roots: Sequence[Path] | None = None,
    ) -> None:
        self.data = data
        self.vectors = vectors
        self.roots = roots
        self._bundle = bundle
        self._threads = threads
        self._device = device
        self._engine = engine
        self._optimize = optimize
        self._store: CollectionStore | None = None
        self._cluster: RayCluster | None = None
        self._stack = ExitStack()

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Create a backend from the options of `vitascope.cli.options`."""
        names = ("bundle", "threads", "device", "engine", "optimize", "vectors", "roots")
        return cls(args.data, **{name: getattr(args, name) for name in names if hasattr(args, name)})

    def __enter__(self) -> Self:
        # Like Ctrl-C, so that a job is released; otherwise its files in progress would count as crashes.
        for number in (signal.SIGTERM, signal.SIGHUP):
            is_main = threading.current_thread() is threading.main_thread()
            if is_main and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)
                self._stack.callback(signal.signal, number, signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def model(self) -> Model:
        """The model. With a Ray cluster it runs on the CPU: the cluster embeds the videos."""
        from vitascope.model import Model

        assert self._bundle is not None
        device = self._device if self._cluster is None else "cpu"
        return Model.open(
            self._bundle, threads=self._threads, device=device, engine=self._engine, optimize=self._optimize
        )

    @cached_property
    def recognition(self) -> LocalRecognition:
        """Recognition of speech and screen text, whose processes are started when they are needed."""
        from index.cli.local_recognition import LocalRecognition

        return self._stack.enter_context(LocalRecognition(self._threads))

    def store(self, *, create: bool = False) -> CollectionStore:
        """Open the collections of the data folder. Raises CollectionNotFound if there are none, unless ``create``."""
        if self._store is None:
            folder = collections_folder(self.data)
            if not create and not folder.is_dir():  # CollectionStore would create it
                raise CollectionNotFound(f"data: {str(self.data)!r} holds no collections; {MISSING_HINT}")
            store = CollectionStore(folder, vectors=self.vectors or default_vectors())
            self._store = self._stack.enter_context(store)
        return self._store

    def open_collection(self, name: str) -> Collection:
        """Return an open collection. Raises CollectionNotFound, which names the existing ones."""
        store = self.store()
        names = store.names()
        if name not in names:
            existing = f"the collections are {', '.join(names)}" if names else "there are no collections"
            raise CollectionNotFound(f"collection: {name!r} is not in {self.data}; {existing}. {MISSING_HINT}")
        return store.open(name)

    def allowed_paths(self) -> AllowedPaths:
        """Return the folders that may contain media files of restored or imported collections. Raises InvalidInput."""
        from index.transfer.media import AllowedPaths

        return AllowedPaths(default_roots() if self.roots is None else self.roots, self.data)

    def use_ray(self, address: str, actors: int) -> None:
        """Run jobs on a Ray cluster, with ``actors`` workers (0: one per CPU). Raises ClusterError."""
        from index.integrations.ray.executor import RayCluster, connect

        self._stack.enter_context(connect(address))
        self._cluster = RayCluster(actors, self._threads or 1, self._device)
        self._cluster.size()  # fails before a job is created

    # Collections

    def list_collections(self) -> JSON:
        """Return ``collections``, ``unreadable`` names, and ``errors`` by name.

        Raises CollectionNotFound if the data folder does not exist.
        """
        if not collections_folder(self.data).is_dir():
            if not self.data.is_dir():
                raise CollectionNotFound(
                    f"data: {str(self.data)!r}: no such folder; a data folder was expected ({MISSING_HINT})"
                )
            return {"collections": [], "unreadable": [], "errors": {}}
        store = self.store()
        collections, errors = [], {}
        for name in store.names():
            try:
                collections.append(_collection_dict(store.open(name)))
            except VitascopeError as error:
                errors[name] = str(error)
        return {"collections": collections, "unreadable": list(errors), "errors": errors}

    def get_collection(self, name: str) -> JSON:
        return _collection_dict(self.open_collection(name))

    def create_collection(
        self,
        name: str,
        *,
        index_kind: str | None = None,
        token_encoding: str | None = None,
        dimensions: int | None = None,
        model: str | None = None,
        stemming: str | None = None,
        **recognition: Unpack[RecognitionChanges],
    ) -> JSON:
        from index.jobs.recognition_settings import RecognitionSettings, merge_settings, write_recognition_settings
        from vitascope.bundle.bundle import Bundle
        from vitascope.visual_token_codec import check_encoding

        assert self._bundle is not None
        encoding = TOKEN_ENCODING if token_encoding is None else check_encoding(token_encoding)
        options: JSON = {"index_kind": index_kind, "dimensions": dimensions, "stemming": stemming}
        manifest = Bundle.open(self._bundle).manifest
        settings = merge_settings(RecognitionSettings(), **with_absolute_model(recognition))
        collection = self.store(create=True).create(
            name, manifest, token_encoding=encoding, **{k: v for k, v in options.items() if v is not None}
        )
        write_recognition_settings(collection, settings)
        return _collection_dict(collection)

    def update_collection(
        self,
        name: str,
        *,
        index_kind: str | None = None,
        stemming: str | None = None,
        **recognition: Unpack[RecognitionChanges],
    ) -> JSON:
        from index.jobs.recognition_settings import (
            merge_settings,
            read_recognition_settings,
            write_recognition_settings,
        )

        collection = self.open_collection(name)
        old = read_recognition_settings(collection)
        settings = merge_settings(old, **with_absolute_model(recognition))
        if stemming is not None:
            check_stemming(stemming)
        if (
            index_kind is not None
        ):  # checks its argument; all others are checked already, so that an error leaves everything unchanged
            collection.set_index_kind(index_kind)
            collection.wait_for_index()  # otherwise the build would end with this process
        if stemming is not None:
            collection.set_stemming(stemming)
        if settings != old:
            write_recognition_settings(collection, settings)
        return _collection_dict(collection)

    def delete_collection(self, name: str) -> list[str]:
        return self.store().drop(name)

    def backup_collection(self, name: str, file: Path, on_progress: OnProgress) -> JSON:
        from index.transfer.backup import backup_collection
        from index.transfer.media import owned_media

        collection = self.open_collection(name)
        size = backup_collection(collection, file, _without_note(on_progress))
        return {"bytes": size, "media_not_included": asdict(owned_media(collection))}

    def restore_collection(self, name: str, file: Path, on_progress: OnProgress) -> JSON:
        """Create a collection from a backup; return it with ``missing_media``."""
        from index.transfer.backup import restore_collection

        allowed, update = self.allowed_paths(), _without_note(on_progress)
        store = self.store(create=True)
        return self._with_missing_media(
            restore_collection(store, file, name, update, allowed=allowed, vectors=self.vectors)
        )

    def export_collection(
        self, name: str, folder: Path, on_progress: OnProgress, *, tokens: bool, thumbnails: bool
    ) -> JSON:
        from index.transfer.media import owned_media
        from index.transfer.parquet import export_collection

        collection = self.open_collection(name)
        result = export_collection(
            collection, folder, tokens=tokens, thumbnails=thumbnails, on_progress=_without_note(on_progress)
        )
        sizes = {"videos": result.videos, "clips": result.clips, "bytes": result.bytes}
        return {**sizes, "media_not_included": asdict(owned_media(collection))}

    def import_collection(self, name: str, folder: Path, on_progress: OnProgress) -> JSON:
        """Create a collection from exported files; return it with ``missing_media``."""
        from index.transfer.parquet import import_collection
        from vitascope.bundle.bundle import Bundle

        assert self._bundle is not None
        manifest = Bundle.open(self._bundle).manifest
        allowed, update = self.allowed_paths(), _without_note(on_progress)
        store = self.store(create=True)
        return self._with_missing_media(
            import_collection(store, folder, name, manifest, on_progress=update, allowed=allowed)
        )

    def reembed_collection(self, name: str, on_progress: OnProgress, *, model: str | None, skip_missing: bool) -> JSON:
        from index.transfer.reembed import reembed
        from vitascope.media.limits import read_media_limits

        limits = read_media_limits(os.environ)
        result = reembed(self.store(), name, self.model, limits=limits, skip_missing=skip_missing, on_video=on_progress)
        failures = [{"file": failed.video.path, "reason": failed.reason} for failed in result.failed]
        return {"switched": result.replaced, "embedded": result.embedded, "failures": failures}

    def transcribe_collection(
        self, name: str, on_progress: OnProgress, *, model: str | None, includes_subtitled: bool
    ) -> JSON:
        return self.recognition.transcribe(self.open_collection(name), on_progress, model, includes_subtitled)

    def read_collection_text(self, name: str, on_progress: OnProgress, *, interval: float) -> JSON:
        return self.recognition.read_text(self.open_collection(name), on_progress, interval)

    def caption_collection(self, name: str, on_progress: OnProgress, *, model: str | None) -> JSON:
        return self.recognition.caption(self.open_collection(name), on_progress, self.model)

    def _with_missing_media(self, collection: Collection) -> JSON:
        from index.transfer.media import describe_missing_media

        missing = describe_missing_media(self.store(), [collection.name])
        return {**_collection_dict(collection), "missing": len(missing), "missing_media": missing}

    # Videos and search

    def list_videos(self, collection: str, *, limit: int | None, cursor: str | None, where: JSON | None) -> JSON:
        opened = self.open_collection(collection)
        assert limit is not None
        parsed = None if where is None else parse_filter(where)
        videos = opened.videos(limit + 1, decode_cursor(cursor), parsed)
        page, next_cursor = paginate(videos, limit, lambda video: video.id)
        return {"videos": video_dicts(opened, page), "next_cursor": next_cursor}

    def get_video(self, collection: str, video_id: str) -> JSON:
        opened = self.open_collection(collection)
        video = opened.get_video(int(video_id))
        spans = [clip_dict(opened, video, clip) for clip in opened.clips(video.id)]
        return {**video_dict(opened, video), "spans": spans}

    def update_video(
        self,
        collection: str,
        video_id: str,
        *,
        title: str | None,
        metadata: Mapping[str, Any] | None,
        subtitles: str | None,
        from_source: bool = False,
    ) -> JSON:
        from index.edits import edit_video

        opened = self.open_collection(collection)
        values: dict[str, Any] = {"title": title, "metadata": metadata, "subtitles": subtitles}
        edited = edit_video(opened, int(video_id), **values, from_source=from_source)
        return {**video_dict(opened, edited.video), "changes": list(edited.changes), "notes": list(edited.notes)}

    def delete_video(self, collection: str, video_id: str) -> None:
        self.open_collection(collection).delete_video(int(video_id))

    def search_collection(
        self,
        collection: str,
        query: Sequence[JSON],
        files: Sequence[Path],
        **options: Unpack[SearchOptions],
    ) -> JSON:
        from index.cli.local_search import search_collection

        opened = self.open_collection(collection)
        opened.require_fingerprint(self.model.bundle.fingerprint)
        return search_collection(opened, self.model, query, files, options)

    def language_warnings(self, query: Sequence[JSON]) -> list[JSON]:
        from index.search.relevance import language_warnings

        texts = (part["value"] for part in query if part["kind"] == "text")
        languages = self.model.bundle.manifest.languages
        return [asdict(warning) for warning in language_warnings(texts, languages, self.model.tokenizer)]

    # Jobs

    def create_job(
        self,
        collection: str,
        *,
        source: JSON,
        metadata: Mapping[str, Any],
        segmentation: JSON,
        **recognition: Unpack[RecognitionChanges],
    ) -> JSON:
        """Create a job. Raises InvalidInput, DecodingUnavailable and TaskMissing, also if a model cannot be used."""
        opened = self.open_collection(collection)
        opened.require_fingerprint(self.model.bundle.fingerprint)
        settings = self.recognition.job_settings(opened, **recognition)
        self.recognition.wait_until_ready(settings, self.model)
        options = job_options(metadata, segmentation, settings)
        return job_dict(index_jobs.create_job(opened, _parse_source(source), options))

    def list_jobs(self, collection: str, *, state: JobState | None, limit: int | None, cursor: str | None) -> JSON:
        assert limit is not None
        jobs = index_jobs.list_jobs(self.open_collection(collection), limit + 1, decode_cursor(cursor), state)
        page, next_cursor = paginate(jobs, limit, lambda job: job.id)
        return {"jobs": [job_dict(job) for job in page], "next_cursor": next_cursor}

    def get_job(self, collection: str, job_id: str) -> JSON:
        return job_dict(index_jobs.get_job(self.open_collection(collection), int(job_id)))

    def iter_job_items(self, collection: str, job_id: str, *, state: ItemState) -> Iterator[JSON]:
        """Yield ``path`` and ``reason`` of the files of a job in a state."""
        for item in index_jobs.iter_items(self.open_collection(collection), int(job_id), state):
            yield {"path": item.path, "reason": item.reason}

    def pause_job(self, collection: str, job_id: str) -> JSON:
        return job_dict(index_jobs.pause(self.open_collection(collection), int(job_id)))

    def resume_job(self, collection: str, job_id: str) -> JSON:
        return job_dict(index_jobs.resume(self.open_collection(collection), int(job_id)))

    def retry_job(self, collection: str, job_id: str) -> JSON:
        return job_dict(index_jobs.retry(self.open_collection(collection), int(job_id)))

    def cancel_job(self, collection: str, job_id: str) -> JSON:
        return job_dict(index_jobs.cancel(self.open_collection(collection), int(job_id)))

    def interrupted_jobs(
        self,
        collection: str,
        source: JSON,
        metadata: Mapping[str, Any],
        segmentation: JSON,
        **recognition: Unpack[RecognitionChanges],
    ) -> list[str]:
        opened = self.open_collection(collection)
        options = job_options(metadata, segmentation, self.recognition.job_settings(opened, **recognition))
        parsed = _parse_source(source)
        unfinished = [*index_jobs.list_jobs(opened, state="queued"), *index_jobs.list_jobs(opened, state="running")]
        return [str(job.id) for job in unfinished if job.source == parsed and job.options == options]

    def run_job(self, collection: str, job_id: str, on_progress: OnProgress) -> JSON:
        """Run a job until it finishes or is paused. Raises the errors of ``index.jobs.runner.run_job``."""
        from index.jobs.recognition import JobRecognition
        from index.jobs.runner import run_job
        from index.jobs.sources.fetcher import file_name
        from index.jobs.sources.list_limits import read_list_limits
        from vitascope.media.limits import read_media_limits

        def on_item(item: JobItem, done: int, total: int) -> None:
            on_progress(done, total, file_name(item.path))

        opened = self.open_collection(collection)
        options: dict[str, Any] = {"on_item": on_item, "list_limits": read_list_limits(os.environ)}
        options["limits"] = read_media_limits(os.environ)
        options["on_progress"] = _without_note(on_progress)
        options["recognition"] = JobRecognition(self.recognition.recognizers)
        if self._cluster is not None:
            options |= {"config": self._cluster.config(), "backend": self._cluster}
        return job_dict(run_job(opened, self.model, int(job_id), **options))

    def follow_job(self, collection: str, job_id: str, on_progress: OnProgress) -> JSON:
        opened = self.open_collection(collection)
        while True:
            job = index_jobs.get_job(opened, int(job_id))
            if job.state in FINAL_JOB_STATES:
                return job_dict(job)
            if _is_runnable(job):
                with suppress(Conflict):  # another process was faster
                    self.run_job(collection, job_id, on_progress)
            else:
                time.sleep(POLL_SECONDS)


def _collection_dict(collection: Collection) -> JSON:
    """Return the JSON of a collection, with its vector backend as ``vectors``. Raises StorageError."""
    return {**collection_dict(collection), "vectors": collection.vector_backend}


def _is_runnable(job: Job) -> bool:
    """Return whether this process can run a job: it is neither paused nor run by another process.

    Raises Conflict for a job that only a service may run.
    """
    if job.state != "queued":
        return False
    if job.options.confined:
        raise Conflict(
            f"job {job.id}: belongs to a service, or was restored from a backup, and is not running; --server URL of a "
            "service was expected"
        )
    return True


def job_options(metadata: Mapping[str, Any], segmentation: JSON, recognition: RecognitionSettings) -> JobOptions:
    """Convert the JSON arguments of a job to its options."""
    from index.clips.rules import Segmentation

    return JobOptions(Segmentation(**segmentation), metadata, False, *recognition)


def _parse_source(source: JSON) -> Source:
    return read_source(json.dumps(dict(source)))


def _without_note(on_progress: OnProgress) -> Callable[[float, int], None]:
    return lambda done, total: on_progress(done, total, "")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
