"""The subtitles of a video: files beside it (talk.mp4 with talk.srt, talk.vtt, talk.en.srt) or in its container."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from index.clips.languages import normal_language
from index.clips.sentence_segmentation import inside
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.source_types import printable_path
from vitascope.errors import MediaError, SubtitlesCorrupt
from vitascope.media.file import MediaFile, MediaSource, PathOutsideRoot, open_beneath, open_source
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.subtitles import SUFFIXES, Cue, read_subtitles
from vitascope.sandbox.decoder import IN_PROCESS, Decoder

_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*|forced|sdh|cc|auto|orig|default", re.IGNORECASE)
_REMARKS = frozenset({"forced", "sdh", "cc", "auto", "orig", "default"})
"""What stands in names where a language may, and is none."""
_UNICODE = frozenset({"utf-8", "utf-16-le", "utf-16-be"})


@dataclass(frozen=True, slots=True)
class Subtitles:
    """What is said, in order of time, and remarks for whoever added the video."""

    cues: list[Cue]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    language: str
    forced: bool
    is_within: bool
    """In the container, not beside it."""
    read: Callable[[], tuple[list[Cue], str]]
    """Gives the cues and the encoding of their text."""


def find_subtitles(
    file: MediaSource,
    duration: float,
    language: str | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
    decoder: Decoder = IN_PROCESS,
    policy: AccessPolicy | None = UNRESTRICTED,
) -> Subtitles:
    """The subtitles of the video ``file``, whose cues begin before ``duration`` (s).

    Files beside it come before those in its container. ``language``: those that state it, then those that state
    none; None: those that state none, then the first by name. The first that can be read and has words is taken;
    what is wrong with others that were tried becomes a note, never an error. ``policy``: what may be read of the files
    beside it; None: nothing.
    """
    notes: list[str] = []
    with open_source(file) as opened, ExitStack() as folder:
        found = [*_beside(opened.path, policy, folder, notes), *_within(opened, limits, decoder, notes)]
        return _first_readable(found, duration, language, notes)


def _first_readable(found: list[_Source], duration: float, language: str | None, notes: list[str]) -> Subtitles:
    chosen = _in_order(found, language)
    if found and not chosen:
        stated = ", ".join(sorted({source.language for source in found}))
        notes.append(f"no subtitles in {language}; there are some in {stated}")
    for source in chosen:
        try:
            cues, encoding = source.read()
        except MediaError as error:
            notes.append(str(error))
            continue
        if encoding not in _UNICODE:
            notes.append(f"{source.name}: not UTF-8; read as {encoding}")
        heard = inside(cues, duration)
        if len(heard) < len(cues):
            notes.append(
                f"{source.name}: {len(cues) - len(heard)} of {len(cues)} cues begin after the end of the video "
                f"({duration:.2f} s) and are left out"
            )
        if heard:
            return Subtitles(heard, tuple(notes))
        if not cues:
            notes.append(f"{source.name}: no cue has words")
    return Subtitles([], tuple(notes))


def _in_order(sources: list[_Source], language: str | None) -> list[_Source]:
    wanted = None if language is None else normal_language(language)

    def is_wanted(source: _Source) -> bool:
        return wanted is not None and (source.language == wanted or source.language.startswith(f"{wanted}-"))

    allowed = [s for s in sources if wanted is None or is_wanted(s) or not s.language]
    # Sorting keeps the order of what is equal: files before streams, each in its own.
    if wanted is None:
        return sorted(allowed, key=lambda s: (s.forced, s.is_within, bool(s.language)))
    return sorted(allowed, key=lambda s: (s.forced, not is_wanted(s)))


def named_beside(file: Path, folder: int | None = None) -> list[str]:
    """The names of the subtitle files that lie beside ``file`` and are named like it. Raises OSError.

    ``folder``: descriptor of the folder of ``file``, where that is open already.
    """
    names = os.listdir(file.parent if folder is None else folder)
    return [name for name in sorted(names) if name.startswith(f"{file.stem}.") and _tags(file, name) is not None]


def _tags(file: Path, name: str) -> list[str] | None:
    """What stands between the stem of ``file`` and the ending of a subtitle file; None for what is none."""
    path = file.with_name(name)
    tags = path.stem[len(file.stem) + 1 :].split(".") if path.stem != file.stem else []
    is_one = path.suffix.lower() in SUFFIXES and len(tags) <= 2 and all(map(_TAG.fullmatch, tags))
    return tags if is_one else None


def _beside(file: Path, policy: AccessPolicy | None, until_read: ExitStack, notes: list[str]) -> Iterator[_Source]:
    if policy is None:
        return
    try:
        folder = policy.open_folder(file.parent)
        until_read.callback(os.close, folder)
        names = named_beside(file, folder)
    except OSError as error:
        notes.append(f"subtitles beside {file.name} cannot be looked for: {error.strerror or error}")
        return
    for name in names:
        tags = _tags(file, name) or []
        languages = [normal_language(tag) for tag in tags if tag.lower() not in _REMARKS]
        forced = "forced" in map(str.lower, tags)
        language = languages[0] if languages else ""
        read = partial(_read_file, file.with_name(name), folder)
        yield _Source(printable_path(Path(name)), language, forced, False, read)


def _read_file(path: Path, folder: int) -> tuple[list[Cue], str]:
    """Read a subtitle file in the folder that is open as ``folder``.

    Raises SubtitlesCorrupt; also for what is no regular file, and for a link that leaves the folder.
    """
    name = printable_path(Path(path.name))
    try:
        target = path.resolve(strict=True).relative_to(path.parent.resolve())
        file = MediaFile(open_beneath(folder, target), path)
    except (ValueError, PathOutsideRoot) as error:
        raise SubtitlesCorrupt(f"{name}: a symbolic link that leaves the folder; it is not read") from error
    except (OSError, RuntimeError) as error:
        raise SubtitlesCorrupt(f"{name}: cannot be read: {error}") from error
    except MediaError as error:
        raise SubtitlesCorrupt(f"{name}: not a regular file; subtitles were expected") from error
    with file:
        return read_subtitles(file)


def _within(file: MediaFile, limits: MediaLimits, decoder: Decoder, notes: list[str]) -> Iterator[_Source]:
    try:
        streams = decoder.subtitle_streams(file, limits)
    except MediaError as error:
        notes.append(f"subtitles in the file cannot be looked for: {error}")
        return
    for stream in streams:
        name = f"{file.name}, subtitle stream {stream.index}"
        language = normal_language(stream.language) if stream.language else ""
        yield _Source(name, language, stream.forced, True, partial(_read_stream, decoder, file, stream.index, limits))


def _read_stream(decoder: Decoder, file: MediaFile, index: int, limits: MediaLimits) -> tuple[list[Cue], str]:
    return decoder.stream_cues(file, index, limits), "utf-8"
