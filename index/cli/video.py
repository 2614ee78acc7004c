"""`vitascope video`: list, show, edit and delete videos of a collection."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from index.cli.backend import (
    JSON,
    VIDEO_DEFAULTS,
    Backend,
    collect_pages,
    open_backend,
    parse_filter_option,
    parse_id,
    require_confirmation,
)
from index.cli.index import parse_pair
from vitascope.cli.options import add_collection, add_data, add_server
from vitascope.cli.output import format_path, plain_table
from vitascope.errors import InvalidInput
from vitascope.text_format import format_span, format_time

EPILOG = """\
Videos and images have the ids that `list` shows. What `edit` changes stays when the file is indexed
again, until its source states something new. The words of --subtitles replace those of all clips;
clips keep their start and end. A file that was moved is found again by `vitascope index FOLDER`.
Deleting a video keeps its file, unless the collection owns the file, as it does for uploads.

examples:
  vitascope video list
  vitascope video list --collection cameras --filter '{"site": "north", "added_at": {"gte": "2026-03-31"}}'
  vitascope video show 12
  vitascope video edit 12 --title "At the beach" --metadata year=2024 --unset site
  vitascope video edit 12 --subtitles beach.srt
  vitascope video delete 12 --yes
  vitascope video list --server http://127.0.0.1:8000 --json | jq -r '.videos[].title'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    list_action = actions.add_parser(
        "list", help="list videos", description="List videos in the order in which they were added."
    )
    list_action.add_argument("--filter", metavar="JSON", help="filter on metadata and fields of videos")
    list_action.add_argument(
        "--limit", type=int, default=100, metavar="N", help="maximum number (default: %(default)s)"
    )
    list_action.add_argument("--cursor", metavar="CURSOR", help="next_cursor of the previous page")
    show_action = actions.add_parser(
        "show", help="show a video and its clips", description="Show a video and its clips."
    )
    edit_action = actions.add_parser(
        "edit",
        help="change title, metadata and subtitles of a video",
        description="Change the title, metadata and subtitles of a video.",
    )
    option = edit_action.add_argument
    option("--title", metavar="TITLE", help="new title")
    option("--metadata", action="append", default=[], metavar="KEY=VALUE", help="metadata to set; may be repeated")
    option("--unset", action="append", default=[], metavar="KEY", help="metadata to delete; may be repeated")
    subtitles = edit_action.add_mutually_exclusive_group()
    subtitles.add_argument("--subtitles", type=Path, metavar="FILE", help=".srt or .vtt file with the spoken words")
    subtitles.add_argument("--no-subtitles", action="store_true", help="delete the words of all clips")
    delete_action = actions.add_parser(
        "delete", help="delete a video", description="Delete a video from its collection."
    )
    delete_action.add_argument("--yes", action="store_true", help="confirm the deletion")
    for action in (show_action, edit_action, delete_action):
        action.add_argument("id", metavar="ID", help="id of the video")
    for action in (list_action, show_action, edit_action, delete_action):
        for add in (add_collection, add_data, add_server):
            add(action)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.action != "list":
        parse_id("id", args.id)
    actions = {"list": _list, "show": _show, "edit": _edit, "delete": _delete}
    with open_backend(args) as backend:
        return {"action": args.action, "collection": args.collection, **actions[args.action](backend, args)}


def _list(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    where = parse_filter_option(args.filter)

    def get_page(limit: int, cursor: str | None) -> JSON:
        return backend.list_videos(args.collection, limit=limit, cursor=cursor, where=where)

    page = collect_pages(get_page, "videos", args.limit, args.cursor)
    return {**page, "videos": [{**VIDEO_DEFAULTS, **video} for video in page["videos"]]}


def _show(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    return {"video": {**VIDEO_DEFAULTS, **backend.get_video(args.collection, args.id)}}


def _edit(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(parse_pair(text) for text in args.metadata)
    metadata.update(dict.fromkeys(args.unset))
    subtitles = "" if args.no_subtitles else None if args.subtitles is None else _read_text(args.subtitles)
    if args.title is None and not metadata and subtitles is None:
        raise InvalidInput("edit: nothing to change; --title, --metadata, --unset or --subtitles was expected")
    return {
        "video": backend.update_video(
            args.collection, args.id, title=args.title, metadata=metadata or None, subtitles=subtitles
        )
    }


def _read_text(file: Path) -> str:
    """Return the text of a subtitle file, in any encoding that indexing reads. Raises SubtitlesCorrupt."""
    from vitascope.media.subtitles import read_text

    return read_text(file)[0]


def _delete(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    video = {**VIDEO_DEFAULTS, **backend.get_video(args.collection, args.id)}
    del video["spans"]
    require_confirmation(args, f"video {video['id']} ({video['title']}) has {video['clips']} clips")
    backend.delete_video(args.collection, args.id)
    return {"video": video}


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of videos; for a single one also its clips."""
    if result["action"] == "edit":
        console.print(f"changed: {', '.join(result['video']['changes']) or 'nothing'}")
        for note in result["video"]["notes"]:
            console.print(escape(note))
    if result["action"] == "delete":
        video = result["video"]
        console.print(f"video {video['id']} ({escape(video['title'])}) deleted: {video['clips']} clips")
        return
    videos = result["videos"] if result["action"] == "list" else [result["video"]]
    if not videos:
        console.print("No videos")
        return
    table = plain_table(">id", "title", ">duration", ">clips", "size", "added", "metadata", "file")
    for video in videos:
        table.add_row(
            video["id"],
            escape(video["title"]),
            format_time(video["duration"]) if video["duration"] else "",
            str(video["clips"]),
            f"{video['width']}x{video['height']}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(video["added_at"])),
            escape(", ".join(f"{key}={value}" for key, value in video["metadata"].items())),
            escape(format_path(video)),
        )
    console.print(table)
    if result["action"] == "show":
        console.print()
        spans = result["video"]["spans"]
        # Older services send no captions.
        texts = ["text", *(name for name in ("screen_text", "caption") if any(clip.get(name) for clip in spans))]
        clips = plain_table(">clip", ">id", *(name.replace("_", " ") for name in texts))
        for clip in spans:
            words = [escape(clip.get(name) or "") for name in texts]
            clips.add_row(format_span(clip["start"], clip["end"]), clip["id"], *words)
        console.print(clips)
    elif result.get("next_cursor") is not None:
        console.print(f"Next page: --cursor {result['next_cursor']}")


COMMANDS = {"video": (add_arguments, run, show)}
