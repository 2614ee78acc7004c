"""Batches, augmentation and the choice of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.small_run import COLOURS, VIDEO_STREAMS, recipe, write_clips, write_corpus, write_tokenizer
from training import checkpoint
from training.data.batches import Batches
from training.data.example import Example
from training.data.frame_batch import augment, clip_count, sample_clips, spread_clips
from training.data.packed import Packed
from training.recipe import DatasetConfig
from training.trainer import train
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer


def dataset(**changes: Any) -> DatasetConfig:
    return DatasetConfig.model_validate(
        {"corpus": "c", "weight": 1.0, "batch_size": 4, "objectives": {"itc": 1.0}} | changes
    )


def dot(side: int) -> torch.Tensor:
    """Four white pictures (4, 1, 1, side, side, 3) with a black square over the middle half of each side."""
    frames = torch.full((4, 1, 1, side, side, 3), 255, dtype=torch.uint8)
    frames[..., side // 4 : -side // 4, side // 4 : -side // 4, :] = 0
    return frames


def ink(frames: torch.Tensor) -> float:
    """Share of the area that is dark."""
    return (frames.float() < 128).float().mean().item()


def test_a_batch_is_a_function_of_its_step(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", tmp_path)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    stage = recipe(tokenizer).stages[0]

    def made() -> Batches:
        return Batches(stage, tmp_path / "data", Tokenizer.open(tokenizer, max_length=16), ["red"], 7, VIDEO_STREAMS)

    once, again = made(), made()
    first, same, next_one = (batch.streams["high"] for batch in (once[5], again[5], once[6]) if batch.streams)
    assert torch.equal(first, same)  # without the steps before
    assert not torch.equal(first, next_one)


def test_a_narrow_window_enlarges_and_a_wide_one_shrinks_into_the_border() -> None:
    high = dot(64)
    rng = np.random.default_rng(0)
    near = augment({"high": high}, dataset(min_crop=0.6, zoom_out=1.0), rng)["high"]
    far = [augment({"high": high}, dataset(min_crop=1.0, zoom_out=2.0), rng)["high"] for _ in range(20)]
    assert near.shape == far[0].shape == high.shape
    assert ink(near) > ink(high)
    assert np.mean([ink(x) for x in far]) < 0.7 * ink(high)
    corners = torch.stack([x[..., [0, 0, -1, -1], [0, -1, 0, -1], :] for x in far])
    assert (corners > 250).all()  # what lies beyond the picture is its border, not black


def test_both_streams_are_cropped_equally() -> None:
    cut = augment({"high": dot(64), "low": dot(32)}, dataset(min_crop=0.7, zoom_out=1.6), np.random.default_rng(3))
    assert ink(cut["low"]) == pytest.approx(ink(cut["high"]), abs=0.03)


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.66, 48, 192), (0.9, 64, 256), (0.5, 32, 128)])
def test_streams_of_a_quarter_of_the_side_keep_one_grid(ratio: float, low: int, high: int) -> None:
    streams = {"high": dot(256), "low": dot(64)}
    cut = augment(streams, dataset(resolution_ratio=ratio), np.random.default_rng(0))
    assert {name: x.shape[3:5] for name, x in cut.items()} == {"high": (high, high), "low": (low, low)}


def test_depth_is_cropped_and_mirrored_with_the_frames_and_keeps_its_values() -> None:
    streams = {"high": dot(64), "low": dot(32), "depth": dot(32)}
    altered = augment(streams, dataset(min_crop=0.7, zoom_out=1.6, flip=True), np.random.default_rng(3))
    assert torch.equal(altered["depth"], altered["low"])
    jittered = augment(streams, dataset(jitter=0.3), np.random.default_rng(3))
    assert torch.equal(jittered["depth"], streams["depth"])
    assert not torch.equal(jittered["low"], streams["low"].float())


def test_tinting_changes_colours_and_leaves_greys() -> None:
    frames = torch.zeros((4, 1, 1, 2, 2, 3), dtype=torch.uint8)
    frames[..., 0, :, :] = 120
    frames[..., 1, :, 0] = 200
    tinted = augment({"high": frames}, dataset(channel_mix=0.5), np.random.default_rng(0))["high"]
    assert torch.allclose(tinted[..., 0, :, :], torch.full((), 120.0), atol=0.01)
    assert (tinted[..., 1, :, :] - frames[..., 1, :, :].float()).abs().max() > 10
    reds = tinted[:, 0, 0, 1, 0, 0]
    assert len(reds.unique()) == 4  # every video in its own way
    assert (reds > 100).all()  # red stays mostly red


def test_questions_do_not_train_detached_text_layers(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", tmp_path)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    torch.set_num_threads(1)

    def change(detach_text: bool) -> dict[str, float]:
        plain = recipe(tokenizer, steps=2).model_dump()
        only = plain["stages"][0]
        only["datasets"][0] |= {"objectives": {"vqa": 1.0, "mlm": 1.0}, "detach_text": detach_text}
        made = recipe(tokenizer, stages=[only], weight_decay=0.0)
        held = [
            checkpoint.load(train(made, tmp_path / "data", tmp_path / str(detach_text), stop_after=1)).model
            for _ in range(2)
        ]
        old, new = (dict(model.named_parameters()) for model in held)
        parts = {"text": "text.bert.encoder.layer.0.", "fused": "text.bert.encoder.layer.1.", "video": "video.low."}
        return {
            part: max((new[n] - old[n]).abs().max().item() for n in new if n.startswith(prefix))
            for part, prefix in parts.items()
        }

    still, moving = change(True), change(False)
    assert still["text"] == 0.0 < moving["text"]
    assert min(still["fused"], still["video"]) > 0.0


def test_each_right_caption_comes_with_a_wrong_one(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", tmp_path, copies=2)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    plain = recipe(tokenizer).model_dump()
    plain["stages"][0]["datasets"][0] |= {"captions_per_video": 3, "batch_size": 6, "objectives": {"itm": 1.0}}
    stage = recipe(tokenizer, stages=plain["stages"]).stages[0]
    made = Batches(stage, tmp_path / "data", Tokenizer.open(tokenizer, max_length=16), [], 7, VIDEO_STREAMS)[0]
    assert made.captions is not None
    assert made.negatives is not None
    assert made.captions.ids.shape == made.negatives.ids.shape == (18, 5)  # [CLS] a colour square [SEP]
    assert (made.captions.ids != made.negatives.ids).sum(dim=1).tolist() == [1] * 18
    assert torch.equal(made.captions.ids[0], made.captions.ids[2])  # of one video, which has one caption


def of_clips(data: Path, tokenizer: Path, **changes: Any) -> Batches:
    plain = recipe(tokenizer).model_dump()
    plain["stages"][0]["datasets"] = [dataset(**{"corpus": "changing"} | changes).model_dump()]
    stage = recipe(tokenizer, stages=plain["stages"][:1]).stages[0]
    return Batches(stage, data, Tokenizer.open(tokenizer, max_length=16), [], 7, VIDEO_STREAMS)


def test_the_configured_number_of_clips_is_sampled_in_time_order(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", tmp_path, clips=4)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    colours = np.array([*COLOURS.values()])
    two, every = of_clips(tmp_path / "data", tokenizer, clips_per_video=2), of_clips(tmp_path / "data", tokenizer)
    drawn = set()
    for step in range(8):
        few, whole = two[step], every[step]
        assert few.streams is not None
        assert whole.streams is not None
        assert few.streams["high"].shape == (4, 2, 1, 64, 64, 3)
        assert whole.streams["low"].shape == (4, 4, 2, 32, 32, 3)
        assert few.captions is not None
        assert whole.captions is not None
        assert torch.equal(few.captions.ids, whole.captions.ids)  # what is drawn besides is the same
        for row, seen in zip(few.rows, few.streams["high"].float().mean(dim=(2, 3, 4)).numpy(), strict=True):
            shown = [int(np.abs(colours - colour).sum(axis=1).argmin()) for colour in seen]
            first, second = ((colour - row) % 4 for colour in shown)
            assert (first in (0, 1), second in (2, 3)) == (True, True)
            drawn.add((int(first), int(second)))
        for name, frames in few.streams.items():  # one video's streams show the same clips
            assert torch.allclose(
                frames.float().mean(dim=(2, 3, 4)), few.streams["high"].float().mean(dim=(2, 3, 4)), atol=8
            ), name
    assert drawn == {(0, 2), (0, 3), (1, 2), (1, 3)}
    again = of_clips(tmp_path / "data", tokenizer, clips_per_video=2)[5].streams
    assert again is not None
    assert torch.equal(again["low"], two[5].streams["low"])  # type: ignore[index]


def test_more_clips_than_are_packed_are_refused_but_a_picture_has_one(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    write_clips(tmp_path / "data", tmp_path, clips=2)
    write_corpus(tmp_path / "data", tmp_path)
    with pytest.raises(InvalidInput, match=r"clips: 3 of .*changing/train, where 2 of each video are packed"):
        of_clips(tmp_path / "data", tokenizer, clips_per_video=3)
    requested = of_clips(tmp_path / "data", tokenizer, corpus="squares", clips_per_video=3, min_crop=0.7, jitter=0.2)[1]
    plain = of_clips(tmp_path / "data", tokenizer, corpus="squares", min_crop=0.7, jitter=0.2)[1]
    assert requested.streams is not None
    assert plain.streams is not None
    assert all(torch.equal(x, plain.streams[name]) for name, x in requested.streams.items())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("mvm", "'mvm' of 'changing' with 2 clips"),
        ("objects", "'objects' of 'changing', packed as 2 clips"),
    ],
)
def test_objectives_of_single_clips_are_refused_with_several_clips(
    tmp_path: Path, objective: str, message: str
) -> None:
    write_clips(tmp_path / "data", tmp_path, clips=2)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(InvalidInput, match=message):
        of_clips(tmp_path / "data", tokenizer, objectives={objective: 1.0})


def test_a_contrastive_objective_needs_two_examples(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", tmp_path, clips=1)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(InvalidInput, match=r"changing/train has 1 examples .* batches of 4; at least 2 were expected"):
        of_clips(tmp_path / "data", tokenizer, limit=1)
    assert len(of_clips(tmp_path / "data", tokenizer, limit=2)[0].rows) == 2
    assert len(of_clips(tmp_path / "data", tokenizer, limit=1, objectives={"mlm": 1.0})[0].rows) == 1


def test_the_objective_objects_is_refused_with_cropping(tmp_path: Path) -> None:
    plain = recipe(tmp_path / "t.json").model_dump()
    plain["stages"][0]["datasets"][0]["objectives"]["objects"] = 1.0
    with pytest.raises(ValueError, match="'objects' of 'squares' excludes min_crop"):
        recipe(tmp_path / "t.json", stages=plain["stages"])


def packed(clips: int, *, still: bool = False) -> Packed:
    return Packed(Path("videos/train"), (), {}, [Example("a", still=still)], {"clips": clips})


def test_one_clip_of_each_segment_is_sampled_uniformly() -> None:
    drawn = sample_clips(np.random.default_rng(0), 400, 7, 3)
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1], [2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(drawn, sample_clips(np.random.default_rng(0), 400, 7, 3))
    counts = np.bincount(drawn[:, 2], minlength=7)[4:]
    assert counts.min() > 100  # a third of 400 each


@pytest.mark.parametrize(("stored", "taken"), [(1, 1), (4, 4), (4, 2), (4, 1)])
def test_other_random_choices_do_not_depend_on_clips(stored: int, taken: int) -> None:
    rng = np.random.default_rng(3)
    sample_clips(rng, 5, stored, taken)
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize(
    ("stored", "taken", "expected"),
    [(1, 1, [0]), (4, 4, [0, 1, 2, 3]), (4, 2, [0, 2]), (5, 1, [2]), (6, 2, [1, 4]), (8, 4, [0, 2, 4, 6])],
)
def test_tests_use_the_middle_clip_of_each_segment(stored: int, taken: int, expected: list[int]) -> None:
    assert spread_clips(stored, taken).tolist() == expected


def test_all_clips_are_used_by_default_and_one_of_a_picture() -> None:
    assert clip_count(packed(4), None) == 4
    assert clip_count(packed(4), 2) == 2
    assert clip_count(packed(1, still=True), 4) == 1
