"""Embeddings of the windows and sentences of a corpus, computed once with a bundle.

DATA/<corpus>/<split>/
    store.json     bundle, length of a window, origin and annotation of the corpus; `complete` once all is embedded
    videos.jsonl   a line per video: its number of windows and its sentences with their moments, or why it is skipped
    windows.f16    float16 (N, E), the windows of all videos in the order of videos.jsonl
    texts.f16      float16 (Q, E), the sentences of all videos in that order

A window has 400 KB of frames, but its embedding only 512 bytes. Embeddings are computed by the runtime, as in serving
(`vitascope.moments`). E is the bundle's embedding dim, T the number of windows of a video.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from training.data.corpus import CorpusError, EmptySplit, first_names, warn_of
from training.data.packed import Origin
from training.moments.annotations import MomentQuery, MomentReader, MomentVideo
from vitascope.bundle.parts import StrictModel
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, MediaError
from vitascope.model import Model
from vitascope.moments import aligned_windows, embed_windows

STORE_NAME, VIDEOS_NAME, WINDOWS_NAME, TEXTS_NAME = "store.json", "videos.jsonl", "windows.f16", "texts.f16"
Progress = Callable[[int, int], None]
"""(videos done, videos in all)."""


class StoreInfo(StrictModel):
    """Content of store.json: the corpus, the bundle and the windows of the embeddings."""

    corpus: str
    split: str
    origin: Origin
    annotation: str
    """SHA-256 of all sentences with their moments."""
    bundle: str
    """Name and version."""
    fingerprint: str
    window_seconds: float
    width: int
    complete: bool = False


class StoredVideo(StrictModel):
    """A line of videos.jsonl. skipped: Reason why the video could not be embedded."""

    key: str
    duration: float = 0.0
    windows: int = 0
    queries: tuple[MomentQuery, ...] = ()
    after_end: tuple[MomentQuery, ...] = ()
    """Sentences whose moments all begin after the end of the video: not embedded, and counted as missed."""
    skipped: str | None = None


@dataclass(frozen=True)
class EmbeddedQuery:
    """A sentence of a video: windows (T, E) and text (E,), float32, and the sentence's moments in seconds."""

    windows: np.ndarray
    text: np.ndarray
    duration: float
    query: MomentQuery


@dataclass(frozen=True)
class WindowStore:
    """An open split. `queries`: (video, sentence, row of its text) of all embedded videos."""

    info: StoreInfo
    videos: list[StoredVideo]
    windows: np.ndarray
    texts: np.ndarray
    first_window: np.ndarray
    queries: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> EmbeddedQuery:
        video, number = self.queries[index]
        return EmbeddedQuery(
            self.windows_of(video),
            self.texts[index].astype(np.float32),
            self.videos[video].duration,
            self.videos[video].queries[number],
        )

    def windows_of(self, video: int) -> np.ndarray:
        """Return the windows of a video, (T, E) float32."""
        first = self.first_window[video]
        return np.asarray(self.windows[first : first + self.videos[video].windows], np.float32)

    def require(self, fingerprint: str, window_seconds: float, source: str) -> None:
        """Raise InvalidInput unless the embeddings are of this bundle and window length. source: For the message."""
        info = self.info
        if (info.fingerprint, info.window_seconds) != (fingerprint, window_seconds):
            raise InvalidInput(
                f"{info.corpus}/{info.split}: windows of {info.window_seconds:g} s by {info.bundle} (fingerprint "
                f"{info.fingerprint[:12]}); windows of {window_seconds:g} s by the bundle of {source} (fingerprint "
                f"{fingerprint[:12]}) were expected, which `vitascope prepare-moments` embeds"
            )


def embed_split(
    model: Model,
    corpus: str,
    reader: MomentReader,
    source: Path,
    split: str,
    folder: Path,
    *,
    window_seconds: float,
    max_skipped: float = 0.01,
    progress: Progress = lambda *_: None,
) -> WindowStore:
    """Embed the windows and sentences of a split into `folder`, continuing where an interrupted call stopped.

    Args:
        model: Model of the bundle.
        corpus: Name of the corpus.
        reader: Reader of the corpus.
        source: Folder of the corpus.
        split: train, val or test.
        folder: Folder of the embeddings.
        window_seconds: Length of a window.
        max_skipped: Maximum fraction of videos that may be unreadable.
        progress: Called after each video.

    Raises:
        CorpusError: The annotation is malformed, or too many videos cannot be decoded.
        InvalidInput: `folder` has embeddings of another annotation, bundle or length of windows.
    """
    videos = list(reader.read(source, split))
    if not videos:
        raise EmptySplit(f"{source}: split {split!r} of {corpus} has no video")
    manifest = model.bundle.manifest
    facts = json.dumps([(video.key, [asdict(query) for query in video.queries]) for video in videos])
    info = StoreInfo(
        corpus=corpus,
        split=split,
        origin=reader.origin,
        annotation=hashlib.sha256(facts.encode()).hexdigest(),
        bundle=f"{manifest.name} {manifest.version}",
        fingerprint=model.bundle.fingerprint,
        window_seconds=window_seconds,
        width=manifest.vector_width,
    )
    done = _begin(folder, info)
    with (
        (folder / WINDOWS_NAME).open("ab") as windows,
        (folder / TEXTS_NAME).open("ab") as texts,
        (folder / VIDEOS_NAME).open("a", encoding="utf-8") as listing,
    ):
        for number, video in enumerate(videos[len(done) :], len(done) + 1):
            stored, embeddings = _embed(model, video, window_seconds)
            for file, array in zip((windows, texts), embeddings, strict=False):
                file.write(array.astype(np.float16).tobytes())
                file.flush()
            listing.write(stored.model_dump_json() + "\n")
            listing.flush()
            done.append(stored)
            progress(number, len(videos))
    skipped = [f"{video.key} ({video.skipped})" for video in done if video.skipped]
    if len(skipped) > max_skipped * len(videos):
        raise CorpusError(
            f"{source}: {len(skipped)} of {len(videos)} videos of {corpus}/{split} cannot be used, at most "
            f"{max_skipped:.1%} was expected (--max-skipped): {first_names(skipped)}"
        )
    late = [query.key for video in done for query in video.after_end]
    warn_of(source, split, "sentences have only moments after the end of their video, and count as missed", late)
    _write_info(folder, info.model_copy(update={"complete": True}))
    return open_store(folder)


def open_store(folder: Path) -> WindowStore:
    """Open an embedded split. Raises InvalidInput if it is missing, incomplete or damaged."""
    info = _read_info(folder)
    if info is None or not info.complete:
        state = "missing" if info is None else "incomplete"
        raise InvalidInput(f"{folder}: embeddings are {state}; `vitascope prepare-moments` writes or completes them")
    videos = _read_videos(folder)
    windows, texts = (
        _map_rows(folder / name, rows, info.width)
        for name, rows in zip((WINDOWS_NAME, TEXTS_NAME), _rows(videos), strict=True)
    )
    first_window = np.cumsum([0, *(video.windows for video in videos)])
    queries = [(i, number) for i, video in enumerate(videos) for number in range(len(video.queries))]
    return WindowStore(info, videos, windows, texts, first_window, queries)


def _map_rows(path: Path, rows: int, width: int) -> np.ndarray:
    size = path.stat().st_size if path.exists() else 0
    if size != rows * width * 2 or not rows:
        raise InvalidInput(f"{path}: {size} bytes; {rows} embeddings of {width} were expected")
    return np.memmap(path, np.float16, "r", shape=(rows, width))


def open_split(data: Path, corpora: Sequence[str], split: str) -> list[WindowStore]:
    """Open a split of corpora below `data`, each once. Raises InvalidInput.

    corpora: Names; empty: all with this split.
    """
    names = dict.fromkeys(corpora or sorted(path.parent.parent.name for path in data.glob(f"*/{split}/{STORE_NAME}")))
    if not names:
        raise InvalidInput(
            f"data: {data} has no split {split!r}; `vitascope prepare-moments` writes DATA/CORPUS/{split}"
        )
    return [open_store(data / name / split) for name in names]


def _begin(folder: Path, info: StoreInfo) -> list[StoredVideo]:
    """Prepare the folder, and return the videos that are already embedded in it."""
    stored = _read_info(folder)
    if stored is None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (VIDEOS_NAME, WINDOWS_NAME, TEXTS_NAME):
            (folder / name).unlink(missing_ok=True)
        _write_info(folder, info)
        return []
    # Versions of a bundle with the same fingerprint have the same embeddings.
    differing = [key for key, value in info if key not in ("bundle", "complete") and getattr(stored, key) != value]
    if differing:
        raise InvalidInput(
            f"{folder}: holds embeddings of another {' and another '.join(differing)} (of {stored.bundle}); the same "
            "was expected, or an empty folder"
        )
    videos = _read_videos(folder)
    lines = "".join(video.model_dump_json() + "\n" for video in videos)
    (folder / VIDEOS_NAME).write_text(lines, "utf-8")  # without a last line that a killed process left incomplete
    for name, rows in zip((WINDOWS_NAME, TEXTS_NAME), _rows(videos), strict=True):
        with (folder / name).open("ab") as file:
            file.truncate(rows * info.width * 2)
    return videos


def _write_info(folder: Path, info: StoreInfo) -> None:
    with atomic_path(folder / STORE_NAME) as path:
        path.write_text(info.model_dump_json(indent=1) + "\n", "utf-8")


def _read_info(folder: Path) -> StoreInfo | None:
    path = folder / STORE_NAME
    try:
        return StoreInfo.model_validate_json(path.read_text("utf-8")) if path.exists() else None
    except ValueError as error:
        raise InvalidInput(f"{path}: damaged; what `vitascope prepare-moments` writes was expected") from error


def _read_videos(folder: Path) -> list[StoredVideo]:
    path = folder / VIDEOS_NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # whole lines; texts may have U+2028
    try:
        return [StoredVideo.model_validate_json(line) for line in lines]
    except ValueError as error:
        raise InvalidInput(f"{path}: damaged; what `vitascope prepare-moments` writes was expected") from error


def _rows(videos: Sequence[StoredVideo]) -> tuple[int, int]:
    """Return the number of windows and of sentences."""
    return sum(video.windows for video in videos), sum(len(video.queries) for video in videos)


def _embed(model: Model, video: MomentVideo, window_seconds: float) -> tuple[StoredVideo, list[np.ndarray]]:
    """Return the record of a video, its windows (T, E) and texts (Q, E); an unreadable video has only a record."""
    try:
        duration = model.decoder.probe(video.path).duration
        windows = embed_windows(model, video.path, aligned_windows(duration, window_seconds))
    except MediaError as error:
        return StoredVideo(key=video.key, skipped=str(error)), []
    queries, after_end = _cut_queries(video.queries, duration)
    if not queries:
        skipped = f"all moments begin after its end at {duration:.1f} s"
        return StoredVideo(key=video.key, after_end=after_end, skipped=skipped), []
    stored = StoredVideo(key=video.key, duration=duration, windows=len(windows), queries=queries, after_end=after_end)
    return stored, [windows, model.embed_text([query.text for query in queries])]


def _cut_queries(
    queries: Sequence[MomentQuery], duration: float
) -> tuple[tuple[MomentQuery, ...], tuple[MomentQuery, ...]]:
    """Return the sentences with moments cut at the end of the video, and those whose moments all begin after it."""
    cut, after_end = [], []
    for query in queries:
        spans = tuple((start, min(end, duration)) for start, end in query.spans if start < duration)
        if spans or not query.spans:
            cut.append(MomentQuery(query.key, query.text, spans, query.highlights))
        else:
            after_end.append(query)
    return tuple(cut), tuple(after_end)
