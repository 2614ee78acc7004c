"""A packed corpus: the frames and sound of one split, as arrays or encoded, and one line of JSON per example.

OUT/<corpus>/<split>/
    <stream>.npy     uint8 (N, F, H, W, 3), RGB, one array per frame stream; (N, C, F, H, W, 3) with several clips;
                     or the same frames in shards, see training.data.shards
    audio.npy        int16, the sounds, if the corpus has sound, see training.data.arrays
    examples.jsonl   N lines, in the order of the arrays
    pack.json        streams, clips, stride, audio, source, licence, split rule, count, skipped media, SHA-256 of the
                     other files

Videos are decoded once, by the decoder and sampler of serving, so that training and serving see the same pixels.
Shape letters: N examples, C clips, F frames, H height, W width (pixels).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.arrays import AUDIO_INDEX_NAME, AUDIO_NAME, ArrayWriter, AudioArray, open_arrays, open_audio
from training.data.audio import SAMPLE_RATE, Samples, read_samples
from training.data.corpus import CorpusError, EmptySplit
from training.data.example import Example, ExampleError
from training.data.shards import ShardedAudio, ShardedFrames, ShardWriter, open_shards
from training.data.strided_frames import Stride, sample_strided
from vitascope.bundle.bundle import file_sha256
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import MediaError
from vitascope.file_lock import try_lock
from vitascope.media.decode import probe
from vitascope.media.sampling import sample_streams
from vitascope.sandbox.isolation import end_with_parent

PACK_NAME = "pack.json"
EXAMPLES_NAME = "examples.jsonl"
FORMAT = 1

VIDEO_STREAMS = (
    FrameStream(name="high", frames=1, height=224, width=224, placement="middle"),
    FrameStream(name="low", frames=6, height=112, width=112, placement="uniform"),
)
STILL_STREAMS = tuple(stream.model_copy(update={"frames": 1}) for stream in VIDEO_STREAMS)
"""Streams of pictures: a single frame is stored, which represents all frames of a stream."""


@dataclass(frozen=True)
class MediaSpan:
    """A part of a video file from `start` to `end`, in seconds, to the precision of its frames."""

    path: Path
    start: float
    end: float


@dataclass(frozen=True)
class EncodedMedia:
    """An encoded picture or video held in memory; `name` ends in the format's extension."""

    name: str
    data: bytes


@dataclass(frozen=True)
class PictureWithSound:
    """A picture file, and a file with the sound that belongs to it."""

    picture: Path
    sound: Path


@dataclass(frozen=True)
class PicturePair:
    """Two pictures, which are stored as two clips."""

    first: Path
    second: Path


Frames = dict[str, NDArray[np.uint8]]
Media = Path | MediaSpan | EncodedMedia | PictureWithSound | PicturePair
"""A whole file, a part of a file, an encoded file in memory, or two files."""
Contents = tuple[Frames, Samples | None]
"""The frames of a file by stream, and its sound."""
Read = Callable[[Media, str], Contents | str]
"""(media, key of the example) -> contents, or the reason why the media cannot be used."""


@dataclass(frozen=True)
class Origin:
    """Source, licence and split rule of a corpus, stored in pack.json."""

    source: str
    licence: str
    split_rule: str


@dataclass(frozen=True)
class Packed:
    """An open packed split. `arrays[stream.name]`: frames as on disk, read-only; see `frames`."""

    folder: Path
    streams: tuple[FrameStream, ...]
    arrays: Mapping[str, Any]
    """Memory-mapped array or `ShardedFrames` by stream."""
    examples: list[Example]
    info: Mapping[str, Any]
    audio: AudioArray | ShardedAudio | None = None
    """Sound by row, int16 (n,) at 16 kHz, empty for an example without sound; None: the corpus has no sound."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def clips(self) -> int:
        """Number of clips stored per video; 1 in corpora packed by early versions."""
        return int(self.info.get("clips", 1))

    @property
    def stride(self) -> float:
        """Seconds between the frames around a centre; 0: frames are spread evenly over the clip."""
        return float(self.info.get("stride", 0.0))

    @property
    def is_still(self) -> bool:
        """Whether all examples are pictures (one clip) or pairs of pictures (two clips)."""
        return all(example.still for example in self.examples)

    @property
    def sound_alone(self) -> bool:
        """Whether the corpus has sounds and no frames."""
        return self.audio is not None and not self.streams

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `pack.json`, which names the streams and the hashes of examples and frames (hexadecimal)."""
        return fingerprint_of(self.folder)

    def stream_mismatches(self, expected: Sequence[FrameStream]) -> list[str]:
        """Describe the packed streams whose size, frame count or sampling differs from `expected`.

        A corpus of still images stores a single frame, which can represent any number of frames.
        """
        packed = {stream.name: stream for stream in self.streams}
        return [
            f"{stream.name}: {_describe(packed.get(stream.name))} packed, {_describe(stream)} expected by the model"
            for stream in expected
            if not self._provides(stream, packed.get(stream.name))
        ]

    def _provides(self, expected: FrameStream, packed: FrameStream | None) -> bool:
        if packed is not None and self.is_still and packed.frames == 1:
            packed = packed.model_copy(update={"frames": expected.frames, "placement": expected.placement})
        return packed == expected

    def frames(self, stream: str) -> NDArray[np.uint8] | ShardedFrames:
        """Return all frames of a stream, (N, C, F, H, W, 3) uint8. They are on disk and read when indexed."""
        array: NDArray[np.uint8] | ShardedFrames = self.arrays[stream]
        return array[:, None] if self.clips == 1 and isinstance(array, np.ndarray) else array


def _describe(stream: FrameStream | None) -> str:
    if stream is None:
        return "nothing"
    frames = f"{stream.frames} frame{'s' if stream.frames > 1 else ''}"
    track = f", track {stream.track}" if stream.track else ""
    return f"{frames} of {stream.width}x{stream.height} pixels ({stream.placement}, {stream.fit}{track})"


def fingerprint_of(folder: Path) -> str:
    """Return `Packed.fingerprint` of a split without reading its examples. Raises CorpusError when it is not packed."""
    _read_info(folder)
    return hashlib.sha256((folder / PACK_NAME).read_bytes()).hexdigest()


def stride_of(folder: Path) -> float | None:
    """Return `Packed.stride` of a split; None for pictures. Raises CorpusError when it is not packed."""
    info = _read_info(folder)
    return None if all(stream["frames"] == 1 for stream in info["streams"]) else float(info.get("stride", 0.0))


def open_packed(folder: Path) -> Packed:
    """Open a split. Raises CorpusError when a file is missing or does not agree with pack.json."""
    info = _read_info(folder)
    examples = _read_examples(folder, str(info["examples_sha256"]))
    streams = tuple(FrameStream.model_validate(s) for s in info["streams"])
    arrays: Mapping[str, Any]
    audio: AudioArray | ShardedAudio | None = None
    if info.get("shards"):
        arrays, audio = open_shards(folder, info["shards"], streams, "audio" in info)
    else:
        arrays = open_arrays(folder, info, streams)
        audio = open_audio(folder, info["count"]) if "audio" in info else None
    if len(examples) != info["count"]:
        raise CorpusError(f"{folder / EXAMPLES_NAME}: {len(examples)} lines; {info['count']} were expected")
    return Packed(folder, streams, arrays, examples, info, audio)


def write_packed(
    folder: Path,
    streams: Sequence[FrameStream],
    items: Iterable[tuple[Example, Media]],
    origin: Origin,
    *,
    clips: int = 1,
    stride: Stride | None = None,
    workers: int = 1,
    max_skipped: float = 0.01,
    shards: bool = False,
    audio: bool = False,
) -> dict[str, Any]:
    """Decode every item and write the split. The folder appears, or is replaced, only when the split is complete.

    Media that cannot be decoded are skipped, and listed with the reason under "skipped". The order of the items does
    not depend on the number of worker processes.

    Args:
        folder: Folder of the split.
        streams: Frame streams to store; empty for files that have only sound.
        items: Examples and their media.
        origin: Source, licence and split rule.
        clips: Number of equal consecutive parts into which each item is cut; each part is sampled as a clip.
        stride: Sample low-resolution frames at a stride around a centre; None: frames are spread evenly over the clip.
        workers: Number of decoding processes.
        max_skipped: Maximum fraction of items that may be skipped.
        shards: Write JPEG in shards instead of arrays.
        audio: Store the sound as well: at most the middle 10 seconds of each item.

    Returns:
        The content of pack.json.

    Raises:
        EmptySplit: There are no items.
        CorpusError: A key repeats, no item is left, or too many items were skipped.
    """
    with _unfinished_folder(folder) as unfinished:
        read = partial(_contents_or_reason, streams=tuple(streams), clips=clips, stride=stride, audio=audio)
        writer = (ShardWriter if shards else ArrayWriter)(unfinished, streams, clips, audio)
        count, skipped = _write_items(unfinished, writer, items, read, workers)
        _check_skipped(folder, count, skipped, max_skipped)
        info = {
            "format": FORMAT,
            "corpus": folder.parent.name,
            "split": folder.name,
            **asdict(origin),
            "streams": [stream.model_dump() for stream in streams],
            "clips": clips,
            **({"stride": stride.seconds, "random_centres": stride.random_centres} if stride else {}),
            "count": count,
            "skipped": skipped,
            "examples_sha256": file_sha256(unfinished / EXAMPLES_NAME),
            **(
                {"shards": {path.name: file_sha256(path) for path in sorted(unfinished.glob("frames*"))}}
                if shards
                else {"frames_sha256": {s.name: file_sha256(unfinished / f"{s.name}.npy") for s in streams}}
            ),
            **({"audio": _audio_info(unfinished, shards)} if audio else {}),
        }
        (unfinished / PACK_NAME).write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", "utf-8")
        _replace(folder, unfinished)
    return info


@contextmanager
def _unfinished_folder(folder: Path) -> Iterator[Path]:
    """Yield a new locked folder beside `folder`; first remove such folders of processes that were killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.glob(f".{folder.name}.*.part"):
        with suppress(FileNotFoundError), _locked(path) as is_abandoned:  # missing: its process has just removed it
            if is_abandoned:
                shutil.rmtree(path, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    with _locked(unfinished):
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the end of the context; yield False if another process has locked it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def _audio_info(folder: Path, shards: bool) -> dict[str, Any]:
    info: dict[str, Any] = {"sample_rate": SAMPLE_RATE}
    if not shards:
        info["sha256"] = {name: file_sha256(folder / name) for name in (AUDIO_NAME, AUDIO_INDEX_NAME)}
    return info


def read_media(
    media: Media,
    streams: Sequence[FrameStream],
    clips: int = 1,
    stride: Stride | None = None,
    key: str = "",
    audio: bool = False,
) -> Contents:
    """Return the frames of media, {stream name: uint8 (C, F, H, W, 3)}, and their sound.

    A part that exceeds the end of its file is cut.

    Args:
        media: The media.
        streams: Frame streams. If empty, only the sound is read, which then must exist.
        clips: Number C of equal consecutive parts; each is sampled as a clip.
        stride, key: As in `sample_strided`; None: frames are spread evenly over the clip.
        audio: Read the sound. It is None if the file has no audio track or is silent.

    Raises:
        MediaError: The file is damaged, a part begins after its end, or a required sound is missing.
    """
    if isinstance(media, EncodedMedia):
        # The decoder reads files, with the limits of serving.
        with tempfile.TemporaryDirectory(prefix="packing-") as folder:
            path = Path(folder) / Path(media.name).name[-60:]  # file names are limited, keys of shards are not
            path.write_bytes(media.data)
            return read_media(path, streams, clips, stride, key, audio)
    if isinstance(media, PictureWithSound):
        frames, _ = read_media(media.picture, streams, clips, stride, key)
        return frames, read_media(media.sound, (), audio=True)[1] if audio else None
    if isinstance(media, PicturePair):
        first, second = (read_media(path, streams)[0] for path in (media.first, media.second))
        return {name: np.concatenate([first[name], second[name]]) for name in first}, None
    path, start, end = (media.path, media.start, media.end) if isinstance(media, MediaSpan) else (media, 0.0, None)
    duration = probe(path).duration
    if start > 0.0 and start >= duration:
        raise MediaError(f"{path}: start: {start:g} s; less than its {duration:g} s was expected")
    end = duration if end is None else min(end, duration)
    samples = read_samples(path, start, end) if audio else None
    if not streams:
        if samples is None:
            raise MediaError(f"{path.name}: no sound; an audio track that is not silent was expected")
        return {}, samples
    if stride is not None:
        frames = sample_strided(path, streams, (start, end), clips, stride, key)
    else:
        edges = np.linspace(start, end, clips + 1).tolist()
        frames = sample_streams(path, streams, list(pairwise(edges)))
    return frames, samples


def _write_items(
    folder: Path,
    writer: ArrayWriter | ShardWriter,
    items: Iterable[tuple[Example, Media]],
    read: Read,
    workers: int,
) -> tuple[int, list[dict[str, str]]]:
    skipped: list[dict[str, str]] = []
    keys: set[str] = set()
    with ExitStack() as files:
        lines = files.enter_context(open(folder / EXAMPLES_NAME, "w", encoding="utf-8"))
        files.enter_context(writer)
        for example, contents in _decoded(items, read, workers):
            if example.key in keys:
                raise CorpusError(f"key: {example.key!r} occurs twice; the keys of a split must be unique")
            if isinstance(contents, str):
                skipped.append({"key": example.key, "reason": contents})
            else:
                line = _line(example)
                writer.append(*contents, line)
                lines.write(line)
            keys.add(example.key)
    return len(keys) - len(skipped), skipped


def _line(example: Example) -> str:
    """Return a line of examples.jsonl. Raises CorpusError if reading the line would fail."""
    line = example.to_json() + "\n"
    try:
        line.encode()
        Example.from_json(line)
    except (UnicodeEncodeError, ExampleError) as error:
        raise CorpusError(f"key: {example.key!r}: {error}") from None
    return line


def _decoded(
    items: Iterable[tuple[Example, Media]], read: Read, workers: int
) -> Iterator[tuple[Example, Contents | str]]:
    """Yield each example, in order, with its contents or the reason why they cannot be used."""
    if workers <= 1:
        for example, media in items:
            yield example, read(media, example.key)
        return
    # A bounded window of pending results limits memory for long corpora.
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent, (os.getpid(),)) as pool:
        waiting: deque[tuple[Example, Future[Contents | str]]] = deque()
        for example, media in items:
            waiting.append((example, pool.submit(read, media, example.key)))
            if len(waiting) >= 8 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _contents_or_reason(
    media: Media, key: str, streams: tuple[FrameStream, ...], clips: int, stride: Stride | None, audio: bool
) -> Contents | str:
    try:
        return read_media(media, streams, clips, stride, key, audio)
    except MediaError as error:
        return f"{error.code}: {error}"


def _check_skipped(folder: Path, count: int, skipped: list[dict[str, str]], max_skipped: float) -> None:
    total = count + len(skipped)
    if not total:
        raise EmptySplit(f"{folder}: the source has no media of this split")
    if count and len(skipped) <= max_skipped * total:
        return
    named = "; ".join(f"{s['key']} ({s['reason']})" for s in skipped[:5])
    raise CorpusError(
        f"{folder}: {len(skipped)} of {total} media could not be used, at most {max_skipped:.1%} may fail "
        f"and one must remain: {named}"
    )


def _replace(folder: Path, finished: Path) -> None:
    finished.chmod(0o755)
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(finished, folder)
    shutil.rmtree(old, ignore_errors=True)


def _read_info(folder: Path) -> Mapping[str, Any]:
    path = folder / PACK_NAME
    try:
        info = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing; a packed split was expected there") from None
    except ValueError as error:
        raise CorpusError(f"{path}: not JSON ({error})") from None
    needed = ("format", "streams", "count", "examples_sha256")
    if not isinstance(info, dict) or any(name not in info for name in needed):
        raise CorpusError(f"{path}: an object with {', '.join(needed)} was expected")
    if info["format"] != FORMAT:
        raise CorpusError(f"{path}: format: {info['format']!r}; {FORMAT} was expected, pack the corpus again")
    clips = info.get("clips", 1)
    if not isinstance(clips, int) or clips < 1:
        raise CorpusError(f"{path}: clips: {clips!r}; a whole number from 1 was expected")
    return info


def _read_examples(folder: Path, expected_sha256: str) -> list[Example]:
    path = folder / EXAMPLES_NAME
    if not path.is_file():
        raise CorpusError(f"{path}: missing; pack the corpus again")
    if file_sha256(path) != expected_sha256:
        raise CorpusError(f"{path}: its SHA-256 is not the one in {PACK_NAME}; pack the corpus again")
    examples = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                examples.append(Example.from_json(line))
            except ExampleError as error:
                raise CorpusError(f"{path}:{number}: {error}") from None
    return examples
