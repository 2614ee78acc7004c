"""HD-VILA's frame sampling: random centres, neighbours at a fixed stride, from packing to the check before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.corpus_files import movie
from tests.training.data.test_prepare import name_in, subtitled_folder
from tests.training.small_run import MODEL, recipe, write_clips, write_corpus, write_tokenizer
from training.data.corpus import CorpusError
from training.data.example import Example
from training.data.packed import VIDEO_STREAMS, Media, MediaSpan, Origin, Packed, open_packed, write_packed
from training.data.prepare import prepare
from training.data.strided_frames import Stride, strided_windows
from training.initialization import load_or_initialize
from training.models import hd_vila
from training.recipe import Recipe
from vitascope.errors import InvalidInput

ORIGIN = Origin("a test", "none needed", "all in one")
GREY_STEP = 2


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds at ten frames per second; the grey of a frame tells its number."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    movie(path, [(20 + GREY_STEP * i,) * 3 for i in range(100)], frames_each=1)
    return path


def pack(out: Path, media: Media, *, random: bool = False, keys: int = 1, clips: int = 1, workers: int = 1) -> Packed:
    items = ((Example(f"key {i}"), media) for i in range(keys))
    write_packed(out, VIDEO_STREAMS, items, ORIGIN, clips=clips, stride=Stride(0.5, random), workers=workers)
    return open_packed(out)


def numbers(packed: Packed, stream: str) -> np.ndarray:
    """Frame numbers (N, C, F) in the video."""
    grey = packed.frames(stream).mean(axis=(3, 4, 5))
    return np.round((grey - 20) / GREY_STEP).astype(int)


def test_neighbours_lie_at_the_stride_around_the_middle(video: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "out", video)
    (centre,) = numbers(packed, "high")[0, 0]
    assert centre == pytest.approx(50, abs=1)
    distances = numbers(packed, "low")[0, 0] - centre
    np.testing.assert_allclose(distances, [-15, -10, -5, 5, 10, 15], atol=1)
    assert (packed.stride, packed.info["random_centres"]) == (0.5, False)


def test_random_centres_are_spread_over_their_parts_and_repeat(video: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "out", video, random=True, keys=12, clips=3)
    centres, neighbours = numbers(packed, "high"), numbers(packed, "low")
    np.testing.assert_allclose(neighbours - centres, np.broadcast_to([-15, -10, -5, 5, 10, 15], (12, 3, 6)), atol=1)
    # A centre lies at least 1.75 s from either end: three parts of 2.17 s.
    for part, (first, last) in enumerate([(17, 39), (39, 61), (61, 83)]):
        assert first - 1 <= centres[:, part].min() < centres[:, part].max() <= last + 1
    assert len(set(centres[:, 0, 0].tolist())) > 4
    again = pack(tmp_path / "again", video, random=True, keys=12, clips=3, workers=2)
    np.testing.assert_array_equal(again.arrays["low"], packed.arrays["low"])


def test_frames_of_a_span_do_not_leave_it(video: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "out", MediaSpan(video, 2.0, 5.0), random=True)
    frames = numbers(packed, "low")[0, 0]
    assert 19 <= frames.min() < frames.max() <= 50
    # 3 s are shorter than 7 frames 0.5 s apart: they lie 3 / 7 s apart, around the middle.
    np.testing.assert_allclose(np.diff(frames), [4.3, 4.3, 8.6, 4.3, 4.3], atol=1)


@pytest.mark.parametrize(
    ("span", "fractions", "expected"),
    [
        ((0.0, 10.0), [0.0], [(0.0, 3.5)]),
        ((0.0, 10.0), [1.0], [(6.5, 10.0)]),
        ((4.0, 10.0), [0.5, 0.5], [(4.625, 8.125), (5.875, 9.375)]),
        ((4.0, 6.0), [0.9], [(4.0, 6.0)]),
        ((0.0, 0.0), [0.9], [(0.0, 0.0)]),
    ],
)
def test_windows_lie_in_their_span(
    span: tuple[float, float], fractions: list[float], expected: list[tuple[float, float]]
) -> None:
    assert strided_windows(span, 7, 0.5, fractions) == [pytest.approx(window) for window in expected]


def strided_recipe(tokenizer: Path, **model: Any) -> Recipe:
    plain = recipe(tokenizer).model_dump() | {"model": MODEL | model, "answers_from": ["changing"]}
    plain["stages"][0]["datasets"] = [
        plain["stages"][0]["datasets"][0] | {"corpus": corpus, "group_by": None} for corpus in ("changing", "squares")
    ]
    return Recipe.model_validate(plain | {"stages": plain["stages"][:1], "answers_from": ["changing", "squares"]})


def test_training_needs_a_corpus_of_the_stride_of_the_model(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_corpus(data, tmp_path, copies=1)  # pictures fit any stride
    write_clips(data, tmp_path, clips=1, videos=4)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")

    def begin(made: Recipe) -> None:
        load_or_initialize(made, data, tmp_path / "run" / "checkpoint", None)

    begin(strided_recipe(tokenizer))
    with pytest.raises(
        InvalidInput, match=r"frame_stride: 0\.48 s in the .*changing/train is packed with 0 s; .*--reci"
    ):
        begin(strided_recipe(tokenizer, frame_stride=0.48))
    write_clips(data, tmp_path, clips=1, videos=4, stride=Stride(0.48, random_centres=True))
    begin(strided_recipe(tokenizer, frame_stride=0.48))
    with pytest.raises(InvalidInput, match=r"frame_stride: 0 s .*packed with 0\.48 s; .*frame_stride = 0\.48 }"):
        begin(strided_recipe(tokenizer))


def test_a_corpus_is_packed_as_the_model_of_a_recipe_takes_it(tmp_path: Path) -> None:
    source = subtitled_folder(tmp_path / "talks", name_in("train"), name_in("val"))
    path = tmp_path / "recipe.toml"
    lines = ["high_height = 128", "high_width = 128", "low_height = 32", "low_width = 32", "frame_stride = 0.1"]
    model = ", ".join([*lines, "grid_height = 2", "grid_width = 2", "low_frames = 4"])
    stage = 'name = "a"\nsteps = 1\nlearning_rate = 1e-3\ndatasets = [{ corpus = "talks", weight = 1.0, batch_size = 2'
    path.write_text(
        f'name = "a"\nsize = "tiny"\nmodel = {{ {model} }}\n[[stages]]\n{stage}, objectives = {{ itc = 1.0 }} }}]\n'
    )
    prepare("subtitled", source, tmp_path / "out", ["train", "val"], recipe=path)
    for split, is_random in (("train", True), ("val", False)):
        packed = open_packed(tmp_path / "out" / "subtitled" / split)
        assert {s.name: (s.frames, s.height) for s in packed.streams} == {"high": (1, 128), "low": (4, 32)}
        assert (packed.stride, packed.info["random_centres"]) == (0.1, is_random)
    with pytest.raises(CorpusError, match=r"--recipe: .*recipe\.toml with --seen-by; one of both was expected"):
        prepare("subtitled", source, tmp_path / "out", recipe=path, seen_by=[tmp_path])
    with pytest.raises(CorpusError, match=r"--recipe: .*missing\.toml: "):
        prepare("subtitled", source, tmp_path / "out", recipe=tmp_path / "missing.toml")


def test_base_has_the_published_numbers_and_tiny_spreads_frames_evenly() -> None:
    base = hd_vila.base()
    assert (base.frame_stride, hd_vila.tiny().frame_stride) == (0.48, 0.0)
    high, low = base.streams()
    assert (high.height, high.width) == (4 * low.height, 4 * low.width)
