"""Subtitles of a video: files beside it (talk.mp4 with talk.srt, talk.vtt, talk.en.srt) or streams in its container."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.source_types import printable_path
from vitascope.errors import MediaError, SubtitlesCorrupt
from vitascope.media.file import MediaFile, MediaSource, PathOutsideRoot, open_beneath, open_source
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.subtitles import SUFFIXES, Cue, read_subtitles
from vitascope.sandbox.decoder import IN_PROCESS, Decoder

_NAME_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*|forced|sdh|cc|auto|orig|default", re.IGNORECASE)
_NOT_LANGUAGES = frozenset({"forced", "sdh", "cc", "auto", "orig", "default"})
"""Tags in file names at the place of a language."""
_UNICODE_ENCODINGS = frozenset({"utf-8", "utf-16-le", "utf-16-be"})
# Containers use ISO 639-2, for some languages in two variants; file names mostly use ISO 639-1.
_LANGUAGE_CODES = """
ar ara|bg bul|bn ben|ca cat|cs ces cze|da dan|de deu ger|el ell gre|en eng|es spa|et est|eu eus baq|fa fas per
fi fin|fr fra fre|gl glg|he heb|hi hin|hr hrv|hu hun|hy hye arm|id ind|is isl ice|it ita|ja jpn|ka kat geo|ko kor
lt lit|lv lav|mk mkd mac|ms msa may|nb nob|nl nld dut|nn nno|no nor|pl pol|pt por|ro ron rum|ru rus|sk slk slo
sl slv|sq sqi alb|sr srp|sv swe|ta tam|te tel|th tha|tr tur|uk ukr|ur urd|vi vie|zh zho chi
"""
_SHORT_CODES = {
    long: short
    for short, *longs in (codes.split() for codes in _LANGUAGE_CODES.strip().replace("\n", "|").split("|"))
    for long in longs
}


@dataclass(frozen=True, slots=True)
class Subtitles:
    """Cues in order of time, and notes for the user."""

    cues: list[Cue]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    """A subtitle file, or a stream of the container (``is_embedded``); ``read`` returns cues and their encoding."""

    name: str
    language: str
    is_forced: bool
    is_embedded: bool
    read: Callable[[], tuple[list[Cue], str]]


def find_subtitles(
    file: MediaSource,
    duration: float,
    language: str | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
    decoder: Decoder = IN_PROCESS,
    policy: AccessPolicy | None = UNRESTRICTED,
) -> Subtitles:
    """Return the first readable subtitles of a video that have cues; problems with others become notes, not errors.

    Files beside the video come before streams in its container.

    Args:
        file: the video.
        duration: seconds; later cues are dropped.
        language: subtitles in this language are tried first, then those without a language; None: those without a
            language first, then the others by name.
        limits: limits of decoding.
        decoder: reads the streams of the container.
        policy: which files beside the video may be read; None: none.
    """
    notes: list[str] = []
    with open_source(file) as media, ExitStack() as folder:
        sources = [
            *_sidecar_sources(media.path, policy, folder, notes),
            *_embedded_sources(media, limits, decoder, notes),
        ]
        return _read_first(sources, duration, language, notes)


def _read_first(sources: list[_Source], duration: float, language: str | None, notes: list[str]) -> Subtitles:
    eligible = _by_preference(sources, language)
    if sources and not eligible:
        languages = ", ".join(sorted({source.language for source in sources}))
        notes.append(f"no subtitles in {language}; there are some in {languages}")
    for source in eligible:
        try:
            cues, encoding = source.read()
        except MediaError as error:
            notes.append(str(error))
            continue
        if encoding not in _UNICODE_ENCODINGS:
            notes.append(f"{source.name}: not UTF-8; read as {encoding}")
        within = clip_cues(cues, duration)
        if len(within) < len(cues):
            notes.append(
                f"{source.name}: {len(cues) - len(within)} of {len(cues)} cues begin after the end of the video "
                f"({duration:.2f} s) and are left out"
            )
        if within:
            return Subtitles(within, tuple(notes))
        if not cues:
            notes.append(f"{source.name}: no cue has words")
    return Subtitles([], tuple(notes))


def clip_cues(cues: Sequence[Cue], duration: float) -> list[Cue]:
    """Return the cues that begin before ``duration`` s, ending there at the latest."""
    return [replace(cue, end=min(cue.end, duration)) for cue in cues if cue.start < duration]


def _by_preference(sources: list[_Source], language: str | None) -> list[_Source]:
    # Sorting is stable: files stay before streams, each in their order.
    if language is None:
        return sorted(sources, key=lambda source: (source.is_forced, source.is_embedded, bool(source.language)))
    code = normalize_language(language)

    def matches(source: _Source) -> bool:
        return source.language == code or source.language.startswith(f"{code}-")

    eligible = [source for source in sources if matches(source) or not source.language]
    return sorted(eligible, key=lambda source: (source.is_forced, not matches(source)))


def normalize_language(language: str) -> str:
    """Return a language code in lower case with hyphens, as ISO 639-1 if possible: ``de-at`` for ``GER_AT``."""
    first, *rest = language.lower().replace("_", "-").split("-")
    return "-".join([_SHORT_CODES.get(first, first), *rest])


def sidecar_names(file: Path, folder: int | None = None) -> list[str]:
    """Return the names of subtitle files beside ``file`` that share its stem. Raises OSError.

    ``folder``: descriptor of the folder of ``file``, if that is open already.
    """
    names = os.listdir(file.parent if folder is None else folder)
    return [name for name in sorted(names) if name.startswith(f"{file.stem}.") and _name_tags(file, name) is not None]


def preferred_sidecar(file: Path, language: str | None) -> Path | None:
    """Return the subtitle file beside a video that `find_subtitles` tries first, or None. Raises OSError."""
    with ExitStack() as folder:
        sources = list(_sidecar_sources(file, UNRESTRICTED, folder, []))
    return next((file.with_name(source.name) for source in _by_preference(sources, language)), None)


def _name_tags(file: Path, name: str) -> list[str] | None:
    """Return the tags between the stem of ``file`` and the suffix of a subtitle file; None for other files."""
    path = file.with_name(name)
    tags = path.stem[len(file.stem) + 1 :].split(".") if path.stem != file.stem else []
    is_sidecar = path.suffix.lower() in SUFFIXES and len(tags) <= 2 and all(map(_NAME_TAG.fullmatch, tags))
    return tags if is_sidecar else None


def _sidecar_sources(
    file: Path, policy: AccessPolicy | None, until_read: ExitStack, notes: list[str]
) -> Iterator[_Source]:
    if policy is None:
        return
    try:
        folder = policy.open_folder(file.parent)
        until_read.callback(os.close, folder)
        names = sidecar_names(file, folder)
    except OSError as error:
        notes.append(f"subtitles beside {file.name} cannot be looked for: {error.strerror or error}")
        return
    for name in names:
        tags = _name_tags(file, name) or []
        languages = [normalize_language(tag) for tag in tags if tag.lower() not in _NOT_LANGUAGES]
        is_forced = "forced" in map(str.lower, tags)
        read = partial(_read_sidecar, file.with_name(name), folder)
        yield _Source(printable_path(Path(name)), languages[0] if languages else "", is_forced, False, read)


def _read_sidecar(path: Path, folder: int) -> tuple[list[Cue], str]:
    """Read a subtitle file in the folder that is open as ``folder``.

    Raises SubtitlesCorrupt, also for anything but a regular file and for a link that leaves the folder.
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


def _embedded_sources(file: MediaFile, limits: MediaLimits, decoder: Decoder, notes: list[str]) -> Iterator[_Source]:
    try:
        streams = decoder.subtitle_streams(file, limits)
    except MediaError as error:
        notes.append(f"subtitles in the file cannot be looked for: {error}")
        return
    for stream in streams:
        name = f"{file.name}, subtitle stream {stream.index}"
        language = normalize_language(stream.language) if stream.language else ""
        read = partial(_read_stream, decoder, file, stream.index, limits)
        yield _Source(name, language, stream.forced, True, read)


def _read_stream(decoder: Decoder, file: MediaFile, index: int, limits: MediaLimits) -> tuple[list[Cue], str]:
    return decoder.stream_cues(file, index, limits), "utf-8"
