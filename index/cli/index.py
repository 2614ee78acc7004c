"""`vitascope index`: index videos and images into a collection."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.cli.backend import JSON, Backend, list_failures, list_notes, open_backend, require_success
from index.cli.recognition_options import add_recognition, parse_recognition
from vitascope.cli.options import (
    LocalOnlyAction,
    add_bundle,
    add_collection,
    add_data,
    add_engine,
    add_model,
    add_server,
    server_url,
)
from vitascope.cli.output import ProgressBar, TerminalConsole, print_files
from vitascope.errors import CollectionExists, CollectionNotFound, InvalidInput, VitascopeError

if TYPE_CHECKING:
    from index.cli.local_backend import LocalBackend
    from index.jobs.sources.source_types import FolderSource, Source
    from index.records import Scalar

SEGMENTATION_FIELDS = {
    "auto": ("length", "overlap", "shortest", "longest", "language"),
    "windows": ("length", "overlap", "shortest", "language"),
    "shots": ("shortest", "longest", "language"),
    "subtitles": ("shortest", "longest", "length", "language"),
}
"""Fields of a ``Segmentation`` that the HTTP API accepts, by rule."""
SEGMENTATION_OPTIONS = {
    "length": "--clip-length",
    "overlap": "--clip-overlap",
    "shortest": "--clip-shortest",
    "longest": "--clip-longest",
    "language": "--subtitles",
}

EPILOG = """\
SOURCE is a folder; a file list (.csv, .tsv, .jsonl, .parquet) with a column of paths; WebDataset
shards (.tar); a URL of a file or folder that fsspec can read; or single files.

Files are identified by content, so the command can be repeated: nothing is embedded twice. A file
that the collection has is refreshed if its title, --metadata or subtitles are new, or if it was
moved; another copy of it is skipped. After an interruption the command continues where it stopped. Files that cannot
be indexed are listed with the reason, and the exit status is then 3; it is 2 where SOURCE has no
videos or pictures.

With --watch, replaced files are indexed again, also those replaced while the command did not run.
--watch-delete removes no video whose folder or drive is missing, and none while more than
--max-delete of the videos have lost their files.

With --server, files are uploaded one after the other, with the subtitle files beside them; content
that the service has is not sent again. The service itself reads URLs, shards, and with --remote
other sources, below its allowed roots.

Speech and screen text are recognised, and captions generated, once a video can be searched. A video on which
that fails gets a note; `vitascope collection transcribe`, `read-text` and `caption` try it again.

examples:
  vitascope index ~/Videos
  vitascope index ~/Videos --watch
  vitascope index /mnt/cameras --watch --watch-delete --max-delete 0.5
  vitascope index /mnt/cameras --collection cameras --metadata site=north --metadata year=2024
  vitascope index lectures --clip-length 20 --clip-overlap 5
  vitascope index films --segment shots --clip-longest 20
  vitascope index talks --segment subtitles --subtitles en
  vitascope index talks --transcribe=models/whisper-small --read-text
  vitascope index films --caption
  vitascope index films.csv --path-column file --title-column name
  vitascope index shards/*.tar
  vitascope index s3://bucket/videos/
  vitascope index /mnt/videos --ray auto
  vitascope index ~/Videos --json | jq .failures
  vitascope index ~/Videos --server http://127.0.0.1:8000
  vitascope index /mnt/videos --server http://search.lan --remote
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="folder, file list, shards, URL or files")
    add("--flat", action="store_true", help="ignore subfolders of a folder")
    add("--path-column", default="path", metavar="NAME", help="path column of a file list (default: %(default)s)")
    add("--title-column", default="title", metavar="NAME", help="title column of a file list (default: %(default)s)")
    add(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="metadata of every video, for filters; may be repeated. Numbers, true and false are parsed",
    )
    add(
        "--remote",
        action="store_true",
        help="with --server: SOURCE is on the machine of the service, which indexes it in a job",
    )
    _add_segmentation(parser)
    add_recognition(parser, "default: as the collection has it")
    _add_watching(parser)
    _add_cluster(parser)
    for add_shared in (add_collection, add_data, add_bundle, add_engine, add_server, add_model):
        add_shared(parser)


def _add_segmentation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("segmentation into clips").add_argument
    add(
        "--segment",
        choices=tuple(SEGMENTATION_FIELDS),
        default="auto",
        help="windows of equal length, shots, sentences of the subtitles (or of the transcript, with --transcribe), or "
        "auto: shots for edited videos, windows for others (default: auto)",
    )
    add(
        "--clip-length",
        type=float,
        metavar="S",
        help="window length in seconds, also for pauses between subtitles (default: 8)",
    )
    add("--clip-overlap", type=float, metavar="S", help="overlap of windows in seconds (default: 0)")
    add(
        "--clip-shortest",
        type=float,
        metavar="S",
        help="minimum length in seconds; shorter clips are merged (default: half a window; shots 1, subtitles 4)",
    )
    add(
        "--clip-longest",
        type=float,
        metavar="S",
        help="maximum length in seconds; longer shots and sentences are split (default: 16)",
    )
    add(
        "--subtitles",
        metavar="LANGUAGE",
        help="language of the subtitles, such as en or pt-BR (default: those without a language, else the first)",
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("watching a folder").add_argument
    flag: dict[str, Any] = {"action": LocalOnlyAction, "nargs": 0, "const": True, "default": False}
    number: dict[str, Any] = {"action": LocalOnlyAction, "type": float}
    add("--watch", **flag, help="watch the folder until Ctrl-C: index new files, report removed ones")
    add("--watch-delete", **flag, help="with --watch: delete the videos of removed files")
    add("--interval", **number, default=5.0, metavar="S", help="seconds between two scans (default: %(default)g)")
    add(
        "--settle",
        **number,
        default=5.0,
        metavar="S",
        help="seconds without a change after which a file is complete, or is considered removed (default: %(default)g)",
    )
    add(
        "--max-delete",
        **number,
        default=0.2,
        metavar="RATIO",
        help="with --watch-delete: delete nothing while more than this ratio of the folder's videos, 0 to 1, has lost "
        "its files; a single video is always deleted (default: %(default)g)",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("Ray cluster").add_argument
    add(
        "--ray",
        action=LocalOnlyAction,
        metavar="ADDRESS",
        help="decode and embed on a Ray cluster: HOST:PORT, auto (the cluster of this machine) or local",
    )
    add(
        "--ray-actors",
        action=LocalOnlyAction,
        type=int,
        default=0,
        metavar="N",
        help="number of workers (default: one per CPU of the cluster)",
    )


def parse_local_source(args: argparse.Namespace) -> Source:
    """Return the source on this machine, with absolute paths. Raises InvalidInput."""
    from index.jobs.sources.access_policy import expand_home
    from index.jobs.sources.source_types import ListSource, check_source, parse_source

    source = parse_source([expand_home(name) for name in args.source], recursive=not args.flat)
    if isinstance(source, ListSource):
        source = replace(source, path_column=args.path_column, title_column=args.title_column)
    return check_source(source)


def parse_remote_source(args: argparse.Namespace) -> dict[str, Any]:
    """Return the source on the service's machine as JSON. Its kind is inferred from names alone."""
    from index.jobs.sources.access_policy import is_url
    from index.jobs.sources.source_types import LIST_SUFFIXES, SHARD_SUFFIXES

    first: str = args.source[0]
    if len(args.source) == 1 and is_url(first):
        return {"kind": "url", "url": first}
    if all(name.lower().endswith(SHARD_SUFFIXES) for name in args.source):
        return {"kind": "shards", "shards": args.source}
    if len(args.source) > 1:
        return {"kind": "files", "files": args.source}
    if first.lower().endswith(LIST_SUFFIXES):
        columns = {"path_column": args.path_column, "title_column": args.title_column}
        return {"kind": "list", "file": first, **columns}
    if Path(first).suffix and Path(first).is_absolute() and not args.flat:
        return {"kind": "url", "url": Path(first).as_uri()}  # a file or a folder: the service checks
    return {"kind": "folder", "folder": first, "recursive": not args.flat}


def parse_metadata(args: argparse.Namespace) -> dict[str, Scalar]:
    """Return the metadata of every video. Raises InvalidInput."""
    from index.records import check_metadata

    return check_metadata(dict(parse_pair(text) for text in args.metadata))


def parse_pair(text: str) -> tuple[str, Scalar]:
    """Return the key and value of ``KEY=VALUE``. Raises InvalidInput."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise InvalidInput(f"metadata: {text!r}; KEY=VALUE was expected")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return key, parsed if isinstance(parsed, str | float | int) else value


def parse_segmentation(args: argparse.Namespace) -> dict[str, Any]:
    """Return the segmentation as JSON. Raises InvalidInput for values that contradict each other or the rule."""
    from index.clips.rules import Segmentation

    values: dict[str, Any] = {}
    for field, option in SEGMENTATION_OPTIONS.items():
        value = getattr(args, option[2:].replace("-", "_"))
        if value is None:
            continue
        if field not in SEGMENTATION_FIELDS[args.segment]:
            rules = " or ".join(rule for rule, fields in SEGMENTATION_FIELDS.items() if field in fields)
            raise InvalidInput(f"{option}: only valid with --segment {rules}")
        values[field] = value
    segmentation = Segmentation(rule=args.segment, **values)
    return {"rule": args.segment, **{name: getattr(segmentation, name) for name in SEGMENTATION_FIELDS[args.segment]}}


def run(args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.sources.access_policy import is_url

    server = server_url(args)
    if server is None:
        if args.remote:
            raise InvalidInput("--remote: only valid with --server URL")
        result = _index_locally(args)
    elif args.remote or is_url(args.source[0]):
        with open_backend(args) as backend:
            result = _index_by_job(backend, args, parse_remote_source(args))
    else:
        from index.cli.uploads import upload_source

        result = upload_source(server, args)
    return {"collection": args.collection, **result}


def _index_locally(args: argparse.Namespace) -> dict[str, Any]:
    from index.cli.local_backend import LocalBackend
    from index.jobs.sources.source_types import source_dict

    source = parse_local_source(args)
    _check_ray(args)
    with LocalBackend.from_args(args) as backend:
        if args.watch or args.watch_delete:
            return _watch(backend, args, _check_watch(args, source))
        if args.ray is not None:
            backend.use_ray(args.ray, args.ray_actors)
        return _index_by_job(backend, args, source_dict(source))


def _index_by_job(backend: Backend, args: argparse.Namespace, source: JSON) -> dict[str, Any]:
    """Create a job, after finishing those that were interrupted, and wait for it. Raises Conflict if it fails."""
    options: dict[str, Any] = {
        "source": source,
        "metadata": parse_metadata(args),
        "segmentation": parse_segmentation(args),
        **parse_recognition(args),
    }
    is_new = ensure_collection(backend, args)
    with ProgressBar("indexing", quiet=args.json) as bar:
        resumed = [
            require_success(backend.run_job(args.collection, job_id, bar.update))
            for job_id in backend.interrupted_jobs(args.collection, **options)
        ]
        try:
            job = backend.create_job(args.collection, **options)
        except VitascopeError:
            if is_new:
                _delete_unused(backend, args.collection, own_jobs=0)
            raise
        job = require_success(backend.run_job(args.collection, job["id"], bar.update))
    added, refreshed = (
        sum(each["counts"].get(state, 0) for each in [*resumed, job]) for state in ("succeeded", "refreshed")
    )
    # The new job skips what the resumed ones have added.
    added_before = _count_added_before(backend, args.collection, job, resumed)
    skipped, duplicates = job["counts"]["skipped"] - added_before, job["duplicates"] - added_before
    failed = job["counts"]["failed"] + job["counts"]["quarantined"]
    if not added + refreshed + duplicates + failed:
        if is_new:
            _delete_unused(backend, args.collection, own_jobs=1)
        raise no_media_error(args.source[0], skipped)
    collection = backend.get_collection(args.collection)
    return {
        "source": job["source"],
        "job": job["id"],
        "resumed": [each["id"] for each in resumed],
        "files": added + refreshed + skipped + failed,
        "added": added,
        "refreshed": refreshed,
        "skipped": skipped,
        "duplicates": duplicates,
        "failed": failed,
        "failures": list_failures(backend, args.collection, job["id"]),
        "notes": [note for each in [*resumed, job] for note in list_notes(backend, args.collection, each)],
        "videos": collection["videos"],
        "clips": collection["clips"],
    }


def ensure_collection(backend: Backend, args: argparse.Namespace) -> bool:
    """Create the collection if it does not exist; return whether it was created."""
    try:
        backend.get_collection(args.collection)
    except CollectionNotFound:
        try:
            backend.create_collection(args.collection, model=args.model)
        except CollectionExists:  # another process was faster
            return False
        return True
    return False


def _delete_unused(backend: Backend, collection: str, own_jobs: int) -> None:
    """Delete a collection that this command has created, unless another process has added a video or a job."""
    jobs = backend.list_jobs(collection, state=None, limit=own_jobs + 1, cursor=None)["jobs"]
    if len(jobs) == own_jobs and not backend.get_collection(collection)["videos"]:
        backend.delete_collection(collection)


def no_media_error(name: str, ignored: int) -> InvalidInput:
    """Return the error for a source without videos and pictures, of which ``ignored`` entries were skipped."""
    content = f"only files that are not media or links that leave it ({ignored})" if ignored else "no files"
    return InvalidInput(f"source: {name!r} has {content}; videos or pictures were expected")


def _count_added_before(backend: Backend, collection: str, job: JSON, resumed: list[JSON]) -> int:
    """Count the files that ``job`` skipped because one of the ``resumed`` jobs had added them."""
    if not resumed:
        return 0
    added = {
        item["path"] for each in resumed for item in backend.iter_job_items(collection, each["id"], state="succeeded")
    }
    return sum(item["path"] in added for item in backend.iter_job_items(collection, job["id"], state="skipped"))


def _check_watch(args: argparse.Namespace, source: Source) -> FolderSource:
    from index.jobs.sources.source_types import FolderSource

    if not args.watch:
        raise InvalidInput("watch-delete: only valid with --watch")
    if not isinstance(source, FolderSource):
        raise InvalidInput(f"watch: {args.source[0]!r} is not a folder; a folder was expected")
    for name in ("interval", "settle"):
        if not 0 < getattr(args, name) < 1e6:
            raise InvalidInput(f"{name}: {getattr(args, name)}; seconds above 0 were expected")
    if not 0 <= args.max_delete <= 1:
        raise InvalidInput(f"max-delete: {args.max_delete}; a ratio from 0 to 1 was expected")
    return source


def _check_ray(args: argparse.Namespace) -> None:
    if args.ray is None and args.ray_actors:
        raise InvalidInput("ray-actors: only valid with --ray")
    if args.ray is not None and args.watch:
        raise InvalidInput("ray: cannot be combined with --watch, which indexes on this machine")
    if args.ray is not None and args.engine != "onnxruntime":
        raise InvalidInput(f"engine: {args.engine!r} with --ray, whose workers run graphs; onnxruntime was expected")


def _watch(backend: LocalBackend, args: argparse.Namespace, source: FolderSource) -> dict[str, Any]:
    from index.cli.local_backend import job_options
    from index.jobs.folder_watcher import WatchOptions, watch_folder
    from vitascope.media.limits import read_media_limits

    console = TerminalConsole(highlight=False, emoji=False)

    def print_event(event: Mapping[str, Any]) -> None:
        if args.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            detail = f": {event['reason']}" if event.get("reason") else ""
            console.print(escape(f"{event['event']}  {event['path']}{detail}"), soft_wrap=True)

    model = backend.model  # an error must not leave a new collection
    ensure_collection(backend, args)
    collection = backend.open_collection(args.collection)
    collection.require_fingerprint(model.bundle.fingerprint)
    recognition = backend.recognition.job_settings(collection, **parse_recognition(args))
    backend.recognition.wait_until_ready(recognition, model)
    options = job_options(parse_metadata(args), parse_segmentation(args), recognition)
    watch = WatchOptions(
        source,
        options,
        args.interval,
        args.settle,
        args.watch_delete,
        args.max_delete,
        read_media_limits(os.environ),
        backend.recognition.recognizers,
    )
    return watch_folder(collection, model, watch, print_event).summary(collection, source)


def show(result: dict[str, Any], console: Console) -> None:
    failed = f", [red]{result['failed']} failed[/red]" if result["failed"] else ""
    refreshed = f", {result['refreshed']} refreshed" if result["refreshed"] else ""
    console.print(
        f"{result['added']} added{refreshed}, {result['skipped']} skipped{_format_skipped(result)}{failed}: collection "
        f"[bold]{escape(result['collection'])}[/bold] has {result['videos']} videos, {result['clips']} clips"
    )
    if "gone" in result:
        _show_removed_files(result, console)
    print_files(console, [(failure["file"], failure["reason"] or "") for failure in result["failures"]], "reason")
    print_files(console, [(note["file"], note["note"]) for note in result["notes"]], "note")


def _format_skipped(result: dict[str, Any]) -> str:
    duplicates, others = result["duplicates"], result["skipped"] - result["duplicates"]
    rest = "not media" if result["source"]["kind"] == "folder" else "not media or repeated"
    parts = [f"{duplicates} already indexed"] * bool(duplicates) + [f"{others} {rest}"] * bool(others)
    return f" ({', '.join(parts)})" if parts else ""


def _show_removed_files(result: dict[str, Any], console: Console) -> None:
    """Print what happened to the videos of files that disappeared from a watched folder."""
    if result["gone"]:
        hint = " (--watch-delete deletes them)" if result["remaining"] and not result["held_videos"] else ""
        console.print(
            f"files gone or replaced: {result['gone']}; videos deleted: {result['removed']}, "
            f"still in the collection: {result['remaining']}{hint}"
        )
    if result["held_videos"]:
        reason = f": {escape(result['held_reason'])}" if result["held_reason"] else ""
        console.print(f"[red]{result['held_videos']} not deleted[/red]{reason}")
    print_files(console, [(folder["path"], folder["reason"]) for folder in result["unavailable"]], "unavailable")


COMMANDS = {"index": (add_arguments, run, show)}
