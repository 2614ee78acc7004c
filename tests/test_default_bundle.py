"""The bundle that the repository ships, as a newcomer meets it: whole, small, and able to find what it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.scenes import write_videos
from vitascope.bundle.bundle import Bundle
from vitascope.model import Model

BUNDLE = Path(__file__).parents[1] / "bundles" / "hd-vila-tiny"
LARGEST = 50 * 1024 * 1024  # bytes; the folder stays in the repository's history for ever


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(BUNDLE, threads=1)


def test_it_is_whole_small_and_says_what_it_is() -> None:
    manifest = Bundle.open(BUNDLE).manifest
    assert set(manifest.tasks) == {"retrieval", "matching", "answering"}
    assert sum(entry.bytes for entry in manifest.files.values()) <= LARGEST
    card = (BUNDLE / manifest.model_card).read_text()
    for corpus in ("Flickr8k", "DAQUAR"):
        assert corpus.lower() in card.lower()
    assert manifest.metrics, "the measured numbers belong into the manifest"


def test_it_finds_the_demonstration_videos_by_their_descriptions(model: Model, tmp_path: Path) -> None:
    paths = write_videos(tmp_path)
    videos = np.concatenate([model.embed_file(path).vectors for path in paths])
    queries = model.embed_text([f"a {path.stem.replace('-', ' ')}" for path in paths])
    first = (queries @ videos.T).argmax(axis=1)
    assert (first == np.arange(len(paths))).sum() >= len(paths) // 2  # chance is 1 of 12
