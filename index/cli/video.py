"""`vitascope video`: what is in a collection, here or at a running service."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.cli.deleting import check_meant
from index.cli.filters import read_filter
from index.cli.paging import check_limit, gathered
from index.cli.places import opened_collection
from index.cli.record_ids import record_number
from index.cli.views import span_here, video_here, video_there
from vitascope.cli.options import add_collection, add_data, add_server, server_url
from vitascope.cli.output import format_span, format_time, plain_table

if TYPE_CHECKING:
    from index.collection import Collection
    from vitascope.client import Client

EPILOG = """\
Videos and pictures alike, by the id that `list` shows. The file of a video stays where it is, unless the collection
owns it, as it does uploads: then it is deleted, too.

examples:
  vitascope video list
  vitascope video list --collection cameras --filter '{"site": "north", "added_at": {"gte": "2026-03-31"}}'
  vitascope video show 12                       its clips, and what is said in them
  vitascope video delete 12 --yes
  vitascope video list --server http://127.0.0.1:8000 --json | jq -r '.videos[].title'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list videos", description="List videos, in the order they were added.")
    listing.add_argument("--filter", metavar="JSON", help="on metadata and fields of videos, as for search")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="videos (default: %(default)s)")
    listing.add_argument("--cursor", metavar="CURSOR", help="next_cursor of an answer: its next page")
    looking = actions.add_parser("show", help="tell of a video and its clips", description="Tell of a video.")
    deleting = actions.add_parser("delete", help="delete a video", description="Delete a video from its collection.")
    deleting.add_argument("--yes", action="store_true", help="yes, delete it")
    for action in (looking, deleting):
        action.add_argument("id", metavar="ID", help="of a video")
    for action in (listing, looking, deleting):
        for add in (add_collection, add_data, add_server):
            add(action)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.action == "list":
        check_limit(args.limit)
    else:
        record_number("id", args.id)
    done = {"action": args.action, "collection": args.collection}
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        there = {"list": _list_there, "show": _show_there, "delete": _delete_there}
        with Client(server) as client:
            return {**done, **there[args.action](client, args)}
    here = {"list": _list_here, "show": _show_here, "delete": _delete_here}
    with opened_collection(args, args.collection) as collection:
        return {**done, **here[args.action](collection, args)}


def _list_here(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    from index.pagination import decode_cursor, paginate
    from index.storage.filters import parse_filter

    where = None if args.filter is None else parse_filter(read_filter(args.filter))
    found = collection.videos(args.limit + 1, decode_cursor(args.cursor), where)
    page, following = paginate(found, args.limit, lambda video: video.id)
    return {"videos": [video_here(collection, video) for video in page], "next_cursor": following}


def _list_there(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    where = None if args.filter is None else read_filter(args.filter)
    found = gathered(
        lambda limit, cursor: client.list_videos(args.collection, limit=limit, cursor=cursor, where=where),
        "videos",
        args.limit,
        args.cursor,
    )
    return {**found, "videos": [video_there(video) for video in found["videos"]]}


def _show_here(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    video = collection.get_video(int(args.id))
    return {
        "video": {**video_here(collection, video), "spans": [span_here(clip) for clip in collection.clips(video.id)]}
    }


def _show_there(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return {"video": video_there(client.get_video(args.collection, args.id))}


def _delete_here(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    video = collection.get_video(int(args.id))
    shown = video_here(collection, video)
    check_meant(args, _lost(shown))
    collection.delete_video(video.id)
    return {"video": shown}


def _delete_there(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    video = client.get_video(args.collection, args.id)
    check_meant(args, _lost(video))
    client.delete_video(args.collection, args.id)
    return {"video": video_there({name: value for name, value in video.items() if name != "spans"})}


def _lost(video: Mapping[str, Any]) -> str:
    return f"video {video['id']} ({video['title']}) has {video['clips']} clips"


def show(result: dict[str, Any], console: Console) -> None:
    """A table of videos; of one that is looked at, its clips."""
    if result["action"] == "delete":
        video = result["video"]
        console.print(f"video {video['id']} ({escape(video['title'])}) deleted: {video['clips']} clips")
        return
    videos = result["videos"] if result["action"] == "list" else [result["video"]]
    if not videos:
        console.print("no videos")
        return
    table = plain_table(">id", "title", ">duration", ">clips", "size", "added", "metadata")
    for video in videos:
        table.add_row(
            video["id"],
            escape(video["title"]),
            format_time(video["duration"]) if video["duration"] else "",
            str(video["clips"]),
            f"{video['width']}x{video['height']}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(video["added_at"])),
            escape(", ".join(f"{key}={value}" for key, value in video["metadata"].items())),
        )
    console.print(table)
    if result["action"] == "show":
        _show_clips(result["video"]["spans"], console)
    elif result["next_cursor"] is not None:
        console.print(f"there are more: --cursor {result['next_cursor']}")


def _show_clips(spans: list[dict[str, Any]], console: Console) -> None:
    console.print()
    table = plain_table(">clip", ">id", "said")
    for clip in spans:
        table.add_row(format_span(clip["start"], clip["end"]), clip["id"], escape(clip["text"]))
    console.print(table)


COMMANDS = {"video": (add_arguments, run, show)}
