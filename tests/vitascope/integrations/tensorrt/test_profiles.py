"""Every shape that a model is asked for falls into a profile, those of searches into one that is tuned for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Manifest
from vitascope.integrations.tensorrt.profiles import MAX_BATCH, MAX_CLIPS, profile_for, profiles_of

BUNDLE = Path(__file__).parents[4] / "bundles" / "hd-vila-tiny"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Bundle.open(BUNDLE).manifest


def streams(rows: int, clips: int) -> dict[str, tuple[int, ...]]:
    return {"high": (rows, clips, 1, 224, 224, 3), "low": (rows, clips, 6, 112, 112, 3)}


def test_a_video_is_as_the_manifests_frame_streams_are(manifest: Manifest) -> None:
    one, many, clips = profiles_of(manifest, "video")
    assert one["high"].min == one["high"].opt == one["high"].max == (1, 1, 1, 224, 224, 3)
    assert many["low"].max == (MAX_BATCH, 1, 6, 112, 112, 3)
    assert clips["low"].max == (4, MAX_CLIPS, 6, 112, 112, 3)


@pytest.mark.parametrize(
    ("rows", "clips", "profile"),
    [(1, 1, 0), (2, 1, 1), (32, 1, 1), (33, 1, None), (1, 2, 2), (4, 8, 2), (5, 2, None), (1, 9, None)],
)
def test_which_profile_a_video_gets(rows: int, clips: int, profile: int | None, manifest: Manifest) -> None:
    assert profile_for(profiles_of(manifest, "video"), streams(rows, clips)) == profile


def test_frames_of_another_size_fit_no_profile(manifest: Manifest) -> None:
    assert profile_for(profiles_of(manifest, "video"), streams(1, 1) | {"low": (1, 1, 6, 112, 96, 3)}) is None


@pytest.mark.parametrize("graph", ["text", "match", "answer"])
def test_texts_of_every_length_fit(graph: str, manifest: Manifest) -> None:
    profiles = profiles_of(manifest, graph)
    for rows in (1, 2, MAX_BATCH):
        for length in range(2, manifest.text_length + 1):
            shapes = {"input_ids": (rows, length), "attention_mask": (rows, length)}
            if graph != "text":
                shapes["visual_tokens"] = (rows, manifest.visual_tokens, manifest.visual_width)  # type: ignore[assignment]
            assert profile_for(profiles, shapes) == (0 if rows == 1 else 1)
    for profile in profiles:
        for name, (least, best, most) in profile.items():
            assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)), name
