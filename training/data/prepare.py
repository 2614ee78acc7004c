"""Pack a corpus for training: `vitascope prepare CORPUS --source DIR --out DIR [--workers 2]`.

Writes OUT/<corpus>/<split>/ (see training.data.packed), or OUT/<name>/<split>/ with --name. docs/data.md and the module
of each reader in READERS describe the content of --source. `pictograms` are npm packages, fetched into --source where
missing, and give two corpora, pictogram_stills and pictogram_videos. Also `python -m training.data.prepare CORPUS ...`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from training.data import (
    coco,
    daquar,
    flickr,
    hdvila100m,
    instruments,
    lsmdc,
    msrvtt,
    msvd,
    nlvr2,
    pictograms,
    recordings,
    referring,
    snli_ve,
    spoken_digits,
    stamps,
    subtitled,
    tgif_qa,
    webdataset,
)
from training.data.corpus import SPLITS, CorpusError, EmptySplit
from training.data.example import Example
from training.data.packed import STILL_STREAMS, VIDEO_STREAMS, Media, Origin, write_packed
from training.data.scenes import generate
from training.data.strided_frames import Stride
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

Items = Iterable[tuple[Example, Media]]


@dataclass(frozen=True)
class Reader:
    """A reader of a corpus. `read(source, split)` yields its items.

    streams: Frame streams to store by default; empty for a corpus without frames. audio: Whether sound is always
    stored. pictures: Number of pictures per example.
    """

    read: Callable[[Path, str], Items]
    origin: Origin
    streams: Sequence[FrameStream]
    audio: bool = False
    pictures: int = 1


READERS: Mapping[str, Reader] = {
    "flickr8k": Reader(flickr.flickr8k, flickr.FLICKR8K_ORIGIN, STILL_STREAMS),
    "daquar": Reader(daquar.daquar, daquar.ORIGIN, STILL_STREAMS),
    "scenes": Reader(generate.read_scenes, generate.ORIGIN, VIDEO_STREAMS),
    "sound_scenes": Reader(generate.read_scenes, generate.ORIGIN, VIDEO_STREAMS, audio=True),
    "coco": Reader(coco.coco, coco.COCO_ORIGIN, STILL_STREAMS),
    "flickr30k": Reader(flickr.flickr30k, flickr.FLICKR30K_ORIGIN, STILL_STREAMS),
    "flickr30k_entities": Reader(referring.flickr30k_entities, referring.ENTITIES_ORIGIN, STILL_STREAMS),
    "refcoco": Reader(referring.refcoco, referring.REFCOCO_ORIGIN, STILL_STREAMS),
    "vqa": Reader(coco.vqa, coco.VQA_ORIGIN, STILL_STREAMS),
    "snli_ve": Reader(snli_ve.snli_ve, snli_ve.ORIGIN, STILL_STREAMS),
    "nlvr2": Reader(nlvr2.nlvr2, nlvr2.ORIGIN, STILL_STREAMS, pictures=2),
    "image_shards": Reader(webdataset.image_shards, webdataset.IMAGE_SHARDS_ORIGIN, STILL_STREAMS),
    "msrvtt": Reader(msrvtt.msrvtt, msrvtt.ORIGIN, VIDEO_STREAMS),
    "msrvtt_official": Reader(msrvtt.msrvtt_official, msrvtt.OFFICIAL_ORIGIN, VIDEO_STREAMS),
    "msvd": Reader(msvd.msvd, msvd.ORIGIN, VIDEO_STREAMS),
    "lsmdc": Reader(lsmdc.lsmdc, lsmdc.ORIGIN, VIDEO_STREAMS),
    "tgif_action": Reader(tgif_qa.action, tgif_qa.ORIGIN, VIDEO_STREAMS),
    "tgif_transition": Reader(tgif_qa.transition, tgif_qa.ORIGIN, VIDEO_STREAMS),
    "tgif_frameqa": Reader(tgif_qa.frameqa, tgif_qa.ORIGIN, VIDEO_STREAMS),
    "hdvila100m": Reader(hdvila100m.hdvila100m, hdvila100m.ORIGIN, VIDEO_STREAMS),
    "video_shards": Reader(webdataset.video_shards, webdataset.VIDEO_SHARDS_ORIGIN, VIDEO_STREAMS),
    "subtitled": Reader(subtitled.subtitled, subtitled.ORIGIN, VIDEO_STREAMS),
    "imagenet200": Reader(webdataset.named_photographs, webdataset.NAMED_PHOTOGRAPHS_ORIGIN, STILL_STREAMS),
    "stamps": Reader(stamps.stamps, stamps.ORIGIN, STILL_STREAMS),
    "stamp_sounds": Reader(stamps.stamp_sounds, stamps.SOUNDS_ORIGIN, STILL_STREAMS, audio=True),
    "esc10": Reader(recordings.esc10, recordings.ESC10_ORIGIN, (), audio=True),
    "fsdd": Reader(recordings.fsdd, recordings.FSDD_ORIGIN, (), audio=True),
    "instruments": Reader(instruments.instruments, instruments.ORIGIN, (), audio=True),
    "spoken_digits": Reader(spoken_digits.spoken_digits, spoken_digits.ORIGIN, (), audio=True),
}
PICTOGRAMS = "pictograms"
CORPORA = (*READERS, PICTOGRAMS)
MAX_SKIPPED = 0.01

EPILOG = """\
your own videos:
  subtitled        any folder of videos with subtitles: talk.mp4 and talk.srt or talk.vtt

public corpora, as their authors distribute them (layouts: docs/data.md):
  msrvtt, msvd               clips with sentences; msrvtt_official: the authors' split instead of 1k-A
  lsmdc                      clips of movies with sentences
  tgif_action, tgif_transition, tgif_frameqa
                             GIFs with questions of TGIF-QA
  hdvila100m                 metadata and texts, and those videos that you have
  coco, flickr8k, flickr30k  photographs with sentences
  vqa, daquar                photographs with questions
  flickr30k_entities, refcoco  photographs with phrases and boxes
  snli_ve, nlvr2             photographs, or pairs of them, with sentences that are true of them or not
  esc10, fsdd                recordings of sounds and of spoken digits
  imagenet200                shards test-00000.tar ... of photographs with the names of their categories, for testing

shards of media from the web:
  image_shards     00000.tar ... of img2dataset
  video_shards     00000.tar ... of video2dataset

made or fetched by commands of this project:
  scenes           what python -m training.data.scenes.generate wrote
  sound_scenes     the same with sound: python -m training.data.scenes.generate --sound
  pictograms       npm packages, fetched into --source; gives pictogram_stills and pictogram_videos
  stamps           /usr/share/tuxpaint/stamps of Debian's tuxpaint-stamps-default
  stamp_sounds     those of them that have a sound, with it
  instruments      those of General MIDI, played by Debian's fluidsynth: /usr/share/sounds/sf2/TimGM6mb.sf2
  spoken_digits    digits in the voices of Debian's espeak-ng: /usr/lib/x86_64-linux-gnu/espeak-ng-data

examples:
  vitascope prepare subtitled --source ~/Talks --name talks --out data/packed
  vitascope prepare subtitled --source ~/Lessons --name lessons --shortest 2 --longest 8
  vitascope prepare msrvtt --source /data/msrvtt --max-skipped 0.1 --workers 4
  vitascope prepare msrvtt --source /data/msrvtt --clips 4 --out data/clips
  vitascope prepare video_shards --source /data/shards --workers 8 --shards
  vitascope prepare scenes --source data/scenes --seen-by bundles/clip --name scenes-clip
  vitascope prepare hdvila100m --source /data/hdvila --recipe my-base.toml --clips 8
  vitascope prepare coco --source /data/coco --splits val test

A file that cannot be decoded is skipped and listed, with the reason, in pack.json. A split is written only when
it is complete; preparing it again replaces it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data.prepare",
        description="Pack a corpus for training.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        run(parser.parse_args(arguments))
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare`."""
    add = parser.add_argument
    add("corpus", choices=CORPORA, metavar="CORPUS", help="corpus to read, see below")
    add("--source", "--cache-dir", type=Path, required=True, metavar="DIR", help="folder of the corpus")
    add("--out", type=Path, default=Path("data/packed"), metavar="DIR", help="folder for packed corpora")
    add("--name", help="name of the packed corpus, its folder in --out (default: CORPUS)")
    add("--splits", nargs="+", choices=SPLITS, metavar="SPLIT", help="train, val or test (default: all of them)")
    add("--workers", type=int, default=1, metavar="N", help="decoding processes (default: 1)")
    add(
        "--max-skipped",
        type=float,
        default=MAX_SKIPPED,
        metavar="SHARE",
        help=f"fail when a larger fraction of a split cannot be used (default: {MAX_SKIPPED})",
    )
    add(
        "--clips",
        type=int,
        default=1,
        metavar="C",
        help="clips per video: equal consecutive parts, sampled separately (default: 1)",
    )
    add("--shards", action="store_true", help="write frames as JPEG in tar shards, about a tenth of the size")
    add("--audio", action="store_true", help="pack the sound of videos as well, at most 10 s of each")
    add(
        "--seen-by",
        type=Path,
        action="append",
        metavar="BUNDLE",
        help="pack the frame streams of this bundle instead of HD-VILA tiny's; repeatable",
    )
    add(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="pack the frame streams of this recipe's model, with its frame stride, instead of HD-VILA tiny's",
    )
    for option, effect, default in (
        ("--shortest", "cues are merged until a clip lasts this long", subtitled.SHORTEST),
        ("--longest", "no clip lasts longer than this", subtitled.LONGEST),
    ):
        add(option, type=float, metavar="SECONDS", help=f"subtitled only: {effect} (default: {default:g})")
    parser.epilog = EPILOG


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run `prepare` with parsed options. Raises CorpusError."""
    return prepare(
        options.corpus,
        options.source,
        options.out,
        options.splits,
        name=options.name,
        clips=options.clips,
        workers=options.workers,
        max_skipped=options.max_skipped,
        shortest=options.shortest,
        longest=options.longest,
        seen_by=options.seen_by or (),
        recipe=options.recipe,
        shards=options.shards,
        audio=options.audio,
    )


def prepare(
    corpus: str,
    source: Path,
    out: Path,
    splits: Sequence[str] | None = None,
    *,
    name: str | None = None,
    clips: int = 1,
    workers: int = 1,
    max_skipped: float = MAX_SKIPPED,
    shortest: float | None = None,
    longest: float | None = None,
    seen_by: Sequence[Path] = (),
    recipe: Path | None = None,
    shards: bool = False,
    audio: bool = False,
) -> dict[str, Any]:
    """Pack the splits of one corpus, showing progress on stderr.

    Args:
        corpus: Name in `CORPORA`.
        source: Folder of the corpus.
        out: Folder for packed corpora.
        splits: Splits to pack; None: all that are not empty.
        name: Folder in `out`; None: `corpus`.
        clips: Number of clips per video; must be 1 for pictures and sounds.
        workers: Number of decoding processes.
        max_skipped: Maximum fraction of a split that may be skipped.
        shortest, longest: Minimum and maximum length of the clips of `subtitled`, in seconds.
        seen_by: Bundles whose frame streams are packed instead of those of HD-VILA tiny.
        recipe: Recipe whose model's frame streams are packed instead. If the model has a frame stride, centres are
            random in the training split; in other splits each centre is the middle of its part.
        shards: Write frames as JPEG in tar shards instead of arrays.
        audio: Pack the sound of videos as well. Corpora of sounds always have it.

    Returns:
        {"name/split": {"count", "skipped": [{"key", "reason"}], "seconds"}}.

    Raises:
        CorpusError: The corpus cannot be read, or an option is invalid.
    """
    if not 0 <= max_skipped <= 1:
        raise CorpusError(f"--max-skipped: {max_skipped:g}; 0 to 1 was expected")
    if clips < 1:
        raise CorpusError(f"--clips: {clips}; at least 1 was expected")
    if workers < 1:
        raise CorpusError(f"--workers: {workers}; at least 1 was expected")
    console = Console(stderr=True)
    done: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    readers = _readers(corpus, source, name, shortest, longest)
    if recipe and seen_by:
        raise CorpusError(f"--recipe: {recipe} with --seen-by; one of both was expected")
    model_streams, stride = _recipe_streams(recipe) if recipe else (_seen_streams(seen_by), 0.0)
    if clips > 1 and all(_is_still(reader) for _, reader in readers):
        raise CorpusError(f"--clips: {clips} with {corpus}; pictures and sounds have one clip, 1 was expected")
    with Progress(*columns, console=console) as progress:
        for label, split, reader in ((f"{n}/{s}", s, reader) for n, reader in readers for s in splits or SPLITS):
            started = time.monotonic()
            task = progress.add_task(label, total=None)
            items = _counted(reader.read(source, split), progress, task)
            try:
                info = write_packed(
                    out / label,
                    _streams(reader, model_streams),
                    items,
                    reader.origin,
                    clips=reader.pictures if _is_still(reader) else clips,
                    stride=None if _is_still(reader) or not stride else Stride(stride, split == "train"),
                    workers=workers,
                    max_skipped=max_skipped,
                    shards=shards,
                    audio=audio or reader.audio,
                )
            except EmptySplit as error:
                if splits:
                    raise
                progress.remove_task(task)
                stays = f"; {out / label} of an earlier run stays as it is" if (out / label).exists() else ""
                console.print(f"{label}: left out: {error}{stays}", highlight=False, markup=False)
                continue
            seconds = round(time.monotonic() - started, 1)
            done[label] = {"count": info["count"], "skipped": info["skipped"], "seconds": seconds}
            console.print(
                f"{label}: {info['count']} packed, {len(info['skipped'])} skipped, {seconds} s",
                highlight=False,
            )
    if not done:
        raise CorpusError(f"{source}: no split of {corpus} has media; at least one was expected")
    return done


def _counted(items: Items, progress: Progress, task: TaskID) -> Items:
    for item in items:
        yield item
        progress.advance(task)


def _is_still(reader: Reader) -> bool:
    return all(stream.frames == 1 for stream in reader.streams)


def _seen_streams(bundles: Sequence[Path]) -> list[FrameStream]:
    """Return all streams of some bundles. Raises BundleError, and CorpusError for different streams of one name."""
    streams_by_name: dict[str, FrameStream] = {}
    for path in bundles:
        for stream in Bundle.open(path).manifest.streams:
            if streams_by_name.setdefault(stream.name, stream) != stream:
                raise CorpusError(
                    f"--seen-by: {path} has another stream {stream.name!r} than the bundles before it; a corpus has "
                    "one stream of a name, pack it twice (--name)"
                )
    return list(streams_by_name.values())


def _recipe_streams(path: Path) -> tuple[list[FrameStream], float]:
    """Return the streams of a recipe's model, and its frame stride in seconds (0: frames are spread evenly)."""
    from training.initialization import model_config  # loads torch
    from training.recipe import read_recipe

    try:
        config = model_config(read_recipe(path), answers=0)
    except (InvalidInput, OSError, ValueError) as error:
        raise CorpusError(f"--recipe: {path}: {error}") from error
    return config.streams(), getattr(config, "frame_stride", 0.0)


def _streams(reader: Reader, model_streams: Sequence[FrameStream]) -> Sequence[FrameStream]:
    """Return the streams to pack; one frame per stream for pictures, none for sounds."""
    if not reader.streams:
        return ()
    frames = {"frames": 1} if _is_still(reader) else {}
    return [stream.model_copy(update=frames) for stream in model_streams] or reader.streams


def _readers(
    corpus: str, source: Path, name: str | None, shortest: float | None, longest: float | None
) -> Sequence[tuple[str, Reader]]:
    """Return (name of the packed corpus, reader) for each corpus that the options give."""
    if corpus not in CORPORA:
        raise CorpusError(f"corpus: {corpus!r}; one of {CORPORA} was expected")
    for option, seconds in (("--shortest", shortest), ("--longest", longest)):
        if seconds is not None and corpus != "subtitled":
            raise CorpusError(f"{option}: {seconds:g} with {corpus}; only `subtitled` cuts clips to a length")
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise CorpusError(f"--name: {name!r}; the name of a folder in --out was expected")
    if corpus == PICTOGRAMS:
        if name is not None:
            raise CorpusError(f"--name: {name!r}; `pictograms` gives two corpora with names of their own")
        return _pictograms(source)
    reader = READERS[corpus]
    if corpus == "subtitled":
        cut = partial(
            subtitled.subtitled,
            shortest=subtitled.SHORTEST if shortest is None else shortest,
            longest=subtitled.LONGEST if longest is None else longest,
        )
        reader = replace(reader, read=cut)
    return [(name or corpus, reader)]


def _pictograms(source: Path) -> Sequence[tuple[str, Reader]]:
    packages = pictograms.fetch_packages(source)
    concepts = pictograms.read_words(packages)

    def stills(_: Path, split: str) -> Items:
        return pictograms.stills(packages, concepts, split)

    def videos(_: Path, split: str) -> Items:
        return pictograms.videos(packages, concepts, split)

    return [
        ("pictogram_stills", Reader(stills, pictograms.STILLS, STILL_STREAMS)),
        ("pictogram_videos", Reader(videos, pictograms.VIDEOS, VIDEO_STREAMS)),
    ]


if __name__ == "__main__":
    sys.exit(main())
