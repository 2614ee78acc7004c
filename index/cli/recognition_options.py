"""Options of commands about the recognition of speech and screen text, and captions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from index.jobs.recognition_settings import RecognitionChanges

OFF = "off"
_DEFAULT = "default"


def add_recognition(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --transcribe, --read-text and --caption; ``default`` says what holds without them."""
    add = parser.add_argument_group("speech, screen text and captions").add_argument
    add(
        "--transcribe",
        nargs="?",
        const=_DEFAULT,
        metavar="MODEL",
        help="recognise speech, except in videos with subtitles: pocketsphinx, or the folder of a model "
        f"(VITASCOPE_SPEECH_MODEL); off: do not ({default})",
    )
    add(
        "--read-text",
        nargs="?",
        const="on",
        metavar="SECONDS",
        help="read the text on screen, in one frame every so many seconds (default: 1); off: do not "
        f"({default}); VITASCOPE_TEXT_READER names another reader",
    )
    add(
        "--caption",
        nargs="?",
        const="on",
        choices=("on", OFF),
        help=f"generate a caption of each clip, if the bundle can; off: do not ({default})",
    )


def parse_recognition(args: argparse.Namespace) -> RecognitionChanges:
    """Return the values of the options; None for those that are missing. Raises InvalidInput."""
    caption = None if args.caption is None else args.caption == "on"
    return {"transcribe": _parse_transcribe(args), "read_text": _parse_read_text(args), "caption": caption}


def with_absolute_model(changes: RecognitionChanges) -> RecognitionChanges:
    """Return the changes with the absolute path of a speech model, since later commands may run in other folders.

    Raises InvalidInput if there is no such folder.
    """
    model = changes.get("transcribe")
    if not isinstance(model, str):
        return changes
    from vitascope.speech.interface import POCKETSPHINX  # imports PyAV, which other changes do not need

    if model == POCKETSPHINX:
        return changes
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InvalidInput(f"transcribe: {model!r}: no such folder; {POCKETSPHINX!r} or a folder was expected")
    return {**changes, "transcribe": str(folder.absolute())}


def _parse_transcribe(args: argparse.Namespace) -> str | bool | None:
    """Return the model of --transcribe, True for the configured one, False for off; None without the option."""
    model: str | None = args.transcribe
    return model if model is None else {_DEFAULT: True, OFF: False}.get(model, model)


def _parse_read_text(args: argparse.Namespace) -> float | bool | None:
    """Return the seconds of --read-text, True for the default, False for off; None without it. Raises InvalidInput."""
    if args.read_text is None:
        return None
    if args.read_text in ("on", OFF):
        return bool(args.read_text == "on")
    try:
        return float(args.read_text)
    except ValueError:
        raise InvalidInput(
            f"read-text: {args.read_text!r}; seconds or off were expected (--read-text=SECONDS after SOURCE)"
        ) from None
