"""Clips of an exported collection, by the subtitles and transcripts that it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.collection_store import CollectionStore
from index.jobs.jobs import create_job
from index.jobs.recognition import VideoRecognition, recognize_collection
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FolderSource
from index.transfer.parquet import export_collection
from tests.index.jobs.fixtures import ingest_upload
from tests.index.jobs.recognition_worker import recognizers
from tests.media_files import write_color_video
from training.data import own_clips as module
from training.data.corpus import CorpusError
from training.data.own_clips import OwnClips, own_clips
from training.data.packed import open_packed, write_packed
from vitascope.bundle.manifest import FrameStream
from vitascope.model import Model

RED, GREEN, BLUE = (220, 10, 10), (10, 220, 10), (10, 10, 220)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Path:
    """A collection of talks with sound, one with subtitles and a silent one, and of an upload; `out` is its export."""
    root = tmp_path_factory.mktemp("exported")
    talks = root / "talks"
    talks.mkdir()
    write_color_video(talks / "plain.mp4", RED, 12.0, sound_seconds=12.0)
    write_color_video(talks / "subtitled.mp4", GREEN, 6.0, sound_seconds=6.0)
    (talks / "subtitled.srt").write_text("1\n00:00:00,000 --> 00:00:05,000\nas it is written\n")
    write_color_video(talks / "silent.mp4", GREEN, 2.0)
    write_color_video(root / "uploaded.mp4", BLUE, 2.0, sound_seconds=2.0)
    with CollectionStore(root / "collections") as library, recognizers() as used:
        collection = library.create("talks", small_model)
        ingest_upload(collection, small_model, root / "uploaded.mp4")
        run_job(collection, small_model, create_job(collection, FolderSource(str(talks)), JobOptions()).id)
        recognize_collection(VideoRecognition(collection, used, "speech"))
        export_collection(collection, root / "out")
    return root


def read(root: Path, media: Path | None) -> tuple[OwnClips, dict[str, list[tuple[Any, Any, str]]]]:
    """The clips of the export; and by video their starts, ends and captions."""
    clips = own_clips(root / "out", 4.0, 16.0, media)
    by_video: dict[str, list[tuple[Any, Any, str]]] = {}
    for example, _ in [*clips.training, *clips.held_out]:
        span = example.attributes["start"], example.attributes["end"]
        by_video.setdefault(Path(str(example.attributes["video"])).stem, []).append((*span, example.captions[0]))
    return clips, by_video


def test_a_collection_is_trained_on_by_its_subtitles_and_transcripts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_TRAINING", 1)
    monkeypatch.setattr(module, "MIN_HELD_OUT", 1)
    # Videos of an export are divided by paths, here those of temporary files; a test video would be unused.
    monkeypatch.setattr(module, "split_of", lambda video: "train")
    clips, by_video = read(root, None)
    spoken = {
        "plain": [(0.2, 4.8, "Brown foxes jump."), (6.0, 11.0, "They rest.")],
        "subtitled": [(0.0, 5.0, "as it is written")],
    }
    assert by_video == spoken
    silent = root / "talks" / "silent.mp4"
    assert clips.pairing.startswith(f"1 videos with subtitles, 1 with transcripts; 1 videos without words ({silent})")
    assert "; 1 videos that the collection owns, for which --media was expected (media/" in clips.pairing

    clips, by_video = read(root, root / "collections" / "talks")
    [uploaded] = by_video.keys() - spoken
    assert by_video == {**spoken, uploaded: [(0.2, 0.9, "brown foxes")]}
    stream = FrameStream(name="high", frames=1, height=16, width=16, placement="middle")
    write_packed(tmp_path / "own" / "train", [stream], [*clips.training, *clips.held_out], clips.origin)
    packed = open_packed(tmp_path / "own" / "train")
    channels = packed.arrays["high"].mean(axis=(1, 2, 3)).argmax(axis=1)
    colors = {example.captions[0]: channel for example, channel in zip(packed.examples, channels, strict=True)}
    assert colors == {"Brown foxes jump.": 0, "They rest.": 0, "as it is written": 1, "brown foxes": 2}

    (root / "talks" / "plain.mp4").unlink()
    with pytest.raises(CorpusError, match=r"1 videos with words; .*; 1 videos whose files are missing \(.*plain"):
        read(root, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["transcript"]), "no column transcript; a collection exported by this"),
        (lambda table: table.set_column(2, "subtitles", pa.array(['[{"text": 1}]'])), r"row 1: subtitles: KeyError"),
    ],
)
def test_a_damaged_export_is_an_error(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    columns = {"path": ["/a.mp4"], "width": [1], "subtitles": ["[]"], "transcript": ["[]"]}
    pq.write_table(change(pa.table(columns)), tmp_path / "videos.parquet")
    with pytest.raises(CorpusError, match=message):
        own_clips(tmp_path, 4.0, 16.0)
