"""What `vitascope collection` did, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.output import FILES_SHOWN, plain_table, show_files


def show(result: dict[str, Any], console: Console) -> None:
    if result["action"] in ("list", "show"):
        _show_list(result["collections"] if result["action"] == "list" else [result], console)
        return
    name = f"[bold]{escape(result['name'])}[/bold]"
    size = decimal(result.get("bytes", 0))
    held = f"{result.get('videos')} videos, {result.get('clips')} clips"
    place = escape(str(result.get("folder") or result.get("file") or ""))
    serving = result.get("index", {}).get("serving")
    console.print(
        {
            "create": f"collection {name} made, tokens as {result.get('token_encoding')}",
            "set": f"collection {name}: index {result.get('index_kind')}, {serving} serves",
            "export": f"{place}: {held} of collection {name}, {size}",
            "import": f"collection {name}: {held} from {place}",
            "backup": f"{place}: collection {name}, {size}",
            "restore": f"collection {name}: {held} from {place}",
            "reembed": f"collection {name}: {held}, of bundle {result.get('bundle')}",
            "drop": f"collection {name} dropped: {held}",
        }[result["action"]]
    )
    if result["action"] == "reembed":
        _show_missing(result, console)
    if (left_out := result.get("media_not_included")) and left_out["files"]:
        count, size = left_out["files"], decimal(left_out["bytes"])
        console.print(
            f"[yellow]{count} media files that it owns ({size}) are not in it;[/yellow] "
            "`vitascope backup` copies everything"
        )
    show_missing_media(result.get("missing_media", ()), console)
    for name in result.get("left_in_milvus", ()):
        console.print(f"[red]{escape(result['vectors'])} did not answer: its collection {name} is left there[/red]")


def show_missing_media(missing: Sequence[dict[str, str]], console: Console) -> None:
    """Name the first videos of a restored or imported collection that have no files."""
    if not missing:
        return
    console.print(
        f"[yellow]{len(missing)} videos have no media file here.[/yellow] They can be searched, not played or embedded "
        "again. Restore a copy that `vitascope backup` made, put the files into their places, or upload them again:"
    )
    show_files(console, [(one["file"], one["title"]) for one in missing], "title")
    if len(missing) > FILES_SHOWN:
        console.print(f"and {len(missing) - FILES_SHOWN} more; --json names all")


def _show_missing(result: dict[str, Any], console: Console) -> None:
    if not result["failures"]:
        return
    show_files(console, [(failure["file"], failure["reason"]) for failure in result["failures"]], "reason")
    if not result["switched"]:
        console.print(
            f"{result['failed']} videos cannot be embedded again: the collection stays as it was. Bring the files back "
            "and repeat the command, or leave them out with --skip-missing"
        )


def _show_list(collections: list[dict[str, Any]], console: Console) -> None:
    if not collections:
        console.print("no collections")
        return
    table = plain_table("name", ">videos", ">clips", ">size", "tokens", "index", "bundle")
    for found in collections:
        if "error" in found:
            table.add_row(escape(found["name"]), "-", "-", "-", "-", "-", f"[red]{escape(found['error'])}[/red]")
            continue
        numbers = (str(found["videos"]), str(found["clips"]), decimal(found["bytes"]))
        index = found["index"]["serving"]
        if found["index_kind"] != index:
            index = f"{found['index_kind']} ({index})"
        table.add_row(escape(found["name"]), *numbers, found["token_encoding"], index, escape(found["bundle"]))
    console.print(table)
