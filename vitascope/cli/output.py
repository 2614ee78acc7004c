"""Output of subcommands: JSON, tables, progress bars and files."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vitascope.errors import InvalidInput
from vitascope.text_format import escape_controls, format_score, format_signals, format_span, format_tenths

MAX_TRANSCRIPT_CHARS = 60
"""Maximum characters of a clip's text in tables."""


class TerminalConsole(Console):
    """Console that escapes control characters, which file names and titles may contain."""

    def render_str(self, text: str, **options: Any) -> Text:  # called for all strings, including table cells
        return super().render_str(escape_controls(text), **options)


def print_document(text: str, console: Console) -> None:
    """Print a document in a format such as SRT. It is unchanged in files and pipes; terminals get escapes."""
    if console.is_terminal:
        console.out(text, end="", highlight=False)
    else:
        console.file.write(text)


def check_output(option: str, path: Path | None, source: Path) -> None:
    """Check that a file can be written, before its content is computed.

    Args:
        option: option that names the file, such as ``--out``.
        path: file to write; None for standard output.
        source: file that the command reads.

    Raises:
        InvalidInput: ``path`` exists and is not a regular file, or is ``source``.
    """
    if path is None or not path.exists():
        return
    if not path.is_file():
        raise InvalidInput(f"{option}: {path}: not a regular file; a regular file was expected")
    if source.exists() and path.samefile(source):
        raise InvalidInput(f"{option}: {path}: the input file; another file was expected")


def print_text_or_json(
    result: dict[str, Any], show: Callable[[dict[str, Any], Console], None], *, as_json: bool
) -> None:
    """Print a result on standard output: as text by ``show``, or as indented JSON in UTF-8."""
    if as_json:
        if isinstance(sys.stdout, io.TextIOWrapper):  # lone surrogates are written as escapes, which are valid JSON
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        json.dump(result, sys.stdout, indent=2, ensure_ascii=False, default=str)
        print()
        return
    # Without a terminal rich assumes 80 columns and would break long paths. No emoji: names may contain `:dog:`.
    width = None if sys.stdout.isatty() else 240
    show(result, TerminalConsole(highlight=False, emoji=False, width=width))


MAX_FILES = 20
USED_SOUND = "Used: pictures and sound"


def print_mapping(result: dict[str, Any], console: Console) -> None:
    """Print any result as a table of keys and values."""
    table = plain_table()
    for key, value in result.items():
        nested = isinstance(value, dict | list)
        text = json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)
        table.add_row(escape(key), escape(text))
    console.print(table)


def plain_table(*columns: str) -> Table:
    """Return a table without borders. Columns whose name begins with ``>`` are right-aligned."""
    table = Table(box=None, show_header=bool(columns), pad_edge=False, header_style="bold")
    for name in columns:
        if name.startswith(">"):
            table.add_column(name[1:], justify="right")
        else:
            table.add_column(name, overflow="fold")
    return table


class ProgressBar:
    """Progress bar on standard error; invisible without a terminal, or when quiet."""

    def __init__(self, description: str, *, quiet: bool = False) -> None:
        # Imported here, as most commands show no progress.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task(description, total=None, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.stop()

    def update(self, done: float, total: int, note: str = "") -> None:
        """Show ``done`` of ``total`` steps; ``note`` describes the current one."""
        self._bar.update(self._task, completed=done, total=total, note=escape_controls(note)[-40:])


def print_files(console: Console, rows: list[tuple[str, str]], column: str) -> None:
    """Print a table of the first `MAX_FILES` rows (file, text); ``column`` is the title of the text column."""
    if not rows:
        return
    table = plain_table("file", column)
    for file, text in rows[:MAX_FILES]:
        table.add_row(escape(file), escape(text))
    console.print(table)
    if len(rows) > MAX_FILES:
        console.print(f"and {len(rows) - MAX_FILES} more; --json lists all")


def print_results(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print search results in their order, with the signals that returned them if these differ between results."""
    if not results:
        console.print("No results")
        return
    score_names = [n for n in ("relevance", "match") if any(result.get(n) is not None for result in results)]
    grouped = any((result["clip_count"] or 1) > 1 for result in results)
    has_conditions = any(result.get("conditions") for result in results)
    scores_of = [result["signals"] for result in results]
    has_words = any(score["matches"] for scores in scores_of for score in scores.values())
    has_signals = has_words or len({signal for scores in scores_of for signal in scores}) > 1
    has_text = any(result["text"] for result in results)
    has_moments = any(result.get("moment") for result in results)
    columns = [*["meets"] * has_conditions, *["found by"] * has_signals, *["text"] * has_text]
    scores = [f">{name}" for name in (*score_names, "similarity")]
    table = plain_table(*scores, ">clip", *[">moment"] * has_moments, *[">clips"] * grouped, "video", *columns)
    for result in results:
        scores = [format_score(result.get(name)) for name in (*score_names, "similarity")]
        span = format_span(result["start"], result["end"])
        moment = [_format_moment(result.get("moment"))] * has_moments
        count = [str(result["clip_count"])] * grouped
        text = [escape(_shorten(result["text"]))] * has_text
        video = format_path(result["video"]) or result["video"]["title"]
        met = [escape(_format_met(result["conditions"] or []))] * has_conditions
        signals = [escape(format_signals(result["signals"]))] * has_signals
        table.add_row(*scores, span, *moment, *count, escape(video), *met, *signals, *text)
    console.print(table)


def _format_moment(moment: Mapping[str, float] | None) -> str:
    if moment is None:
        return "-"
    return f"{format_span(moment['start'], moment['end'], format_tenths)} ({format_score(moment['score'])})"


def _format_met(conditions: Sequence[Mapping[str, Any]]) -> str:
    met = [f"{'not ' if c['weight'] < 0 else ''}{c['text']}" for c in conditions if c["met"]]
    return ", ".join(met) or "-"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TRANSCRIPT_CHARS else f"{text[: MAX_TRANSCRIPT_CHARS - 1]}…"


def format_path(video: Mapping[str, Any]) -> str:
    """Return the path of a video, relative to the working folder if it is inside; empty for an upload."""
    path = video["path"]
    if path is None:
        return "(missing)" if video["missing"] else ""
    if video["missing"]:
        return f"{path} (missing)"
    # The path may be on the machine of a service; it is made relative only if it also exists on this machine.
    is_here = Path(path).is_relative_to(Path.cwd()) and os.path.exists(path)
    return os.path.relpath(path) if is_here else str(path)
