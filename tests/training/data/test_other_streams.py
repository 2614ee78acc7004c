"""Packed corpora used by models with fewer or smaller frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import GREEN, RED, movie
from training.data.example import Example
from training.data.other_streams import stream_adapter
from training.data.packed import VIDEO_STREAMS, Origin, Packed, open_packed, write_packed
from training.evaluation.encoder import streams_of
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

HIGH = FrameStream(name="high", frames=1, height=48, width=64, placement="middle")
LOW = FrameStream(name="low", frames=6, height=24, width=32, placement="uniform")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """One video: red, then green."""
    folder = tmp_path_factory.mktemp("packed")
    movie(folder / "a.mp4", [RED, GREEN])
    origin = Origin("made in the test", "CC0-1.0", "all")
    write_packed(folder / "c" / "train", [HIGH, LOW], [(Example("a"), folder / "a.mp4")], origin)
    return open_packed(folder / "c" / "train")


def seen(packed: Packed, *streams: FrameStream) -> dict[str, np.ndarray]:
    return stream_adapter(packed, streams)(streams_of(packed, np.array([0]), streams))


def test_packed_streams_are_passed_unchanged(packed: Packed) -> None:
    actual = stream_adapter(packed, [LOW, HIGH])
    assert actual.exact
    assert actual.words() == "as packed"
    np.testing.assert_array_equal(seen(packed, LOW)["low"], packed.frames("low")[:1])


def test_two_of_six_frames_are_the_packed_frames(packed: Packed) -> None:
    two = LOW.model_copy(update={"frames": 2})
    actual = stream_adapter(packed, [two])
    assert (actual.exact, actual.max_offset) == (False, pytest.approx(0))
    assert actual.words() == "2 of the packed frames of 'low'"
    np.testing.assert_array_equal(seen(packed, two)["low"], packed.frames("low")[:1, :, [1, 4]])


def test_frames_at_other_times_are_reported(packed: Packed) -> None:
    actual = stream_adapter(packed, [LOW.model_copy(update={"frames": 4})])
    assert actual.max_offset == pytest.approx(1 / 24)
    assert actual.words() == "4 of the packed frames of 'low', at most 4.2% of a clip off their times"


def test_smaller_pictures_keep_their_colours(packed: Packed) -> None:
    small = HIGH.model_copy(update={"height": 24, "width": 24})
    pixels = seen(packed, small)["high"]
    assert pixels.shape == (1, 1, 1, 24, 24, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.mean(axis=(0, 1, 2, 3, 4)), packed.arrays["high"].mean(axis=(0, 1, 2, 3)), atol=2)
    assert stream_adapter(packed, [small]).words() == "'high' made 24x24"


@pytest.mark.parametrize(
    "expected",
    [
        HIGH.model_copy(update={"name": "frames"}),
        HIGH.model_copy(update={"height": 96}),
        LOW.model_copy(update={"frames": 8}),
        HIGH.model_copy(update={"fit": "crop", "height": 32, "width": 32}),
        LOW.model_copy(update={"resample": "bicubic"}),
    ],
)
def test_streams_that_cannot_be_derived_are_refused(packed: Packed, expected: FrameStream) -> None:
    with pytest.raises(
        InvalidInput, match=rf"streams: .*{expected.name}.*packed; .* cannot be made from it .*--seen-by"
    ):
        stream_adapter(packed, [expected])


def test_a_picture_is_repeated_for_any_number_of_frames(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED])
    still = [LOW.model_copy(update={"frames": 1})]
    items = [(Example("a", still=True), tmp_path / "a.mp4")]
    write_packed(tmp_path / "c" / "train", still, items, Origin("made in the test", "CC0-1.0", "all"))
    packed = open_packed(tmp_path / "c" / "train")
    assert stream_adapter(packed, [LOW]).exact
    assert seen(packed, LOW)["low"].shape == (1, 1, 6, 24, 32, 3)


def test_the_shipped_students_can_use_the_usual_packed_corpora() -> None:
    from training.distillation.recipe import STUDENTS, student_recipe

    names = [path.stem for path in STUDENTS.glob("*.toml")]
    assert {"small", "smallest"} <= set(names)
    packed = Packed(Path("scenes"), VIDEO_STREAMS, {}, [], {})
    for name in names:
        assert stream_adapter(packed, student_recipe(name).video_config().streams()).max_offset == pytest.approx(0)
