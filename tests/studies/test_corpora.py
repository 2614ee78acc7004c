"""The study's corpora, made from a real generated one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studies import corpora
from tests.training.small_run import write_corpus
from training.data.packed import open_packed
from training.data.scenes.generate import main as generate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study corpora of 6 scenes; squares in place of all photographs and pictograms."""
    folder = tmp_path_factory.mktemp("study")
    sizes = {"--train": "6", "--val": "1", "--test": "2", "--seed": "3", "--workers": "1"}
    generate(["--out", str(folder / "scenes"), *(word for option in sizes.items() for word in option)])
    write_corpus(folder / "packed", folder)
    squares = folder / "packed" / "squares"
    (squares / "val").rename(squares / "test")
    for corpus in corpora.STILLS:
        (folder / "packed" / corpus).symlink_to(squares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "BATCH", 3)
        corpora.prepare(folder / "packed", folder / "scenes", folder / "corpora")
    return folder / "corpora"


def test_each_geometry_has_frames_of_its_own_size(made: Path) -> None:
    shapes = {
        name: {s: a.shape[1:4] for s, a in open_packed(made / name / "scenes" / "train").arrays.items()}
        for name in corpora.GEOMETRIES
    }
    assert shapes == {
        "hybrid": {"high": (1, 128, 128), "low": (6, 64, 64)},
        "low": {"high": (1, 64, 64), "low": (6, 64, 64)},
        "high": {"high": (1, 128, 128), "low": (6, 128, 128)},
    }


def test_stills_keep_their_colours(made: Path) -> None:
    small = open_packed(made / "hybrid" / "flickr8k" / "train")
    whole = open_packed(made.parent / "packed" / "flickr8k" / "train")
    assert small.arrays["high"].shape[1:] == (1, 128, 128, 3)
    of_small, of_whole = (p.arrays["high"].mean(axis=(1, 2, 3)) for p in (small, whole))
    assert np.allclose(of_small, of_whole, atol=1.0)


def test_a_share_of_the_labels_is_the_first_examples(made: Path) -> None:
    whole = open_packed(made / "hybrid" / "scenes" / "train")
    few = open_packed(made / "hybrid" / "scenes_10" / "train")
    assert [e.key for e in few.examples] == [e.key for e in whole.examples[:3]]
    assert np.array_equal(few.arrays["low"], whole.arrays["low"][:3])


def test_transcripts_are_all_that_a_spoken_corpus_says(made: Path) -> None:
    whole = {e.key: e for e in open_packed(made / "hybrid" / "scenes" / "train").examples}
    spoken = open_packed(made / "hybrid" / "scenes_spoken" / "train").examples
    assert spoken
    for example in spoken:
        assert example.captions == (whole[example.key].spoken,)
        assert not example.questions
        assert not example.negatives
    assert any(e.captions[0] not in whole[e.key].captions for e in spoken)


def test_what_is_there_is_not_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be made")

    monkeypatch.setattr(corpora, "write_packed", fails)
    monkeypatch.setattr(np, "save", fails)
    corpora.prepare(made.parent / "packed", made.parent / "scenes", made)
