"""Embedding, matching and answering with a small model of colours, and rejected inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.media_files import moving_shot, solid, write_color_video, write_picture, write_video
from tests.small_bundle import COLOURS, STREAMS, make_small_bundle, write_manifest
from tests.vitascope.bundle.bundles import change_graph, rewrite_manifest
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GRAPHS_OF_TASK
from vitascope.errors import BundleCorrupt, EngineError, InvalidInput, MediaError, TaskMissing, TextError
from vitascope.input_validation import Streams
from vitascope.model import Model
from vitascope.tokenizer import MAX_CHARACTERS

NAMES = list(COLOURS)


def colour_streams(*names: str, clips: int = 1) -> dict[str, np.ndarray]:
    """Return the streams of one video per colour."""
    colours = np.array([COLOURS[name] for name in names], np.uint8).reshape(-1, 3) * 255
    return {
        s["name"]: np.array(
            np.broadcast_to(
                colours[:, None, None, None, None],
                (len(names), clips, s["frames"], s["height"], s["width"], 3),
            )
        )
        for s in STREAMS
    }


def test_texts_are_nearest_to_the_videos_they_describe(small_model: Model) -> None:
    texts = small_model.embed_text([f"a {name} thing" for name in NAMES])
    videos = small_model.embed_video(colour_streams(*NAMES, clips=2))
    assert texts.dtype == videos.vectors.dtype == videos.visual_tokens.dtype == np.float32
    assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-4)
    assert videos.visual_tokens.shape == (len(NAMES), 2, 16)
    assert (texts @ videos.vectors.T).argmax(axis=1).tolist() == list(range(len(NAMES)))


@pytest.mark.parametrize("external_data", [False, True])
def test_graphs_of_a_bundle_that_replaced_the_opened_one_are_not_run(tmp_path: Path, external_data: bool) -> None:
    tasks = ("retrieval", "matching", "grounding")
    folder = make_small_bundle(tmp_path / "bundle", tasks=tasks, external_data=external_data)
    model = Model.open(folder, threads=1)
    model.embed_text(["a red thing"])
    document = folder / model.bundle.manifest.model_card
    document.write_text("Another card.", "utf-8")
    (folder / "NOTICE.md").write_text("Another notice.", "utf-8")
    if external_data:
        (folder / "grounding.bin").write_bytes((folder / "grounding.bin").read_bytes() + b"\0")
        rewrite_manifest(folder)
    else:
        change_graph(folder, "grounding", lambda graph: setattr(graph, "doc_string", "trained again"))
    model.embed_video(colour_streams("red"))
    with pytest.raises(BundleCorrupt, match="was replaced since it was opened; open it again"):
        model.ground(["a red thing"], np.zeros((1, 2, 16), np.float32))
    make_small_bundle(folder, seed=1, tasks=tasks, external_data=external_data)
    with pytest.raises(BundleCorrupt, match="was replaced since it was opened; open it again"):
        model.match(["a red thing"], np.zeros((1, 2, 16), np.float32))


def test_texts_get_the_prompt_of_their_type(small_model: Model, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "prompts")
    rewrite_manifest(folder, prompts={"query": "the ", "document": "a video of "})
    model = Model.open(folder, threads=1)
    np.testing.assert_allclose(model.embed_text(["red"]), small_model.embed_text(["the red"]), atol=1e-6)
    np.testing.assert_allclose(
        model.embed_text(["red"], "document"), small_model.embed_text(["a video of red"]), atol=1e-6
    )
    tokens = small_model.embed_video(colour_streams("red")).visual_tokens
    np.testing.assert_array_equal(model.match(["red"], tokens).logits, small_model.match(["red"], tokens).logits)
    for text in ("  ", "red" * MAX_CHARACTERS):
        with pytest.raises(TextError, match=r"texts\[0\]"):
            model.embed_text([text])


def test_batches_by_length_keep_the_order_and_need_little_padding(small_model: Model) -> None:
    texts = [" ".join(["a"] * (index * 7 % 13)) + f" {NAMES[index % 8]}" for index in range(70)]
    batches = small_model.text_batches(texts)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(70))
    assert max(len(batch.rows) for batch in batches) == small_model.batch_size
    for batch in batches:
        lengths = batch.inputs["attention_mask"].sum(axis=1)
        assert batch.inputs["input_ids"].shape == (len(batch.rows), lengths.max())
        assert batch.tokens == lengths.sum()
    computed = sum(batch.inputs["input_ids"].size for batch in batches)
    assert computed < 0.8 * len(texts) * max(batch.inputs["input_ids"].shape[1] for batch in batches)
    together = small_model.embed_text(texts)
    alone = np.concatenate([small_model.embed_text([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-6


def test_match_separates_right_and_wrong_captions(small_model: Model) -> None:
    tokens = small_model.embed_video(colour_streams("red", "blue")).visual_tokens
    match = small_model.match(["a red thing", "a red thing"], tokens.astype(np.float16))
    assert match.logits.shape == match.probabilities.shape == (2,)
    assert match.probabilities[0] > 0.95
    assert match.probabilities[1] < 0.05


def test_answers_are_ordered_by_probability(small_model: Model) -> None:
    tokens = small_model.embed_video(colour_streams("red", "green", "blue", "blue")).visual_tokens
    questions = ["which colour is it?", "what color is it?", "is it blue?", "is it red?"]
    answers = small_model.answer(questions, tokens, top=3)
    assert [row[0].text for row in answers] == ["red", "green", "yes", "no"]
    for row in answers:
        assert len(row) == 3
        probabilities = [answer.probability for answer in row]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1 + 1e-9
    full = small_model.answer(questions[:1], tokens[:1], top=99)[0]
    assert sum(answer.probability for answer in full) == pytest.approx(1)


def _recalibrated(tmp_path: Path, **calibration: float) -> Model:
    folder = make_small_bundle(tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, {**manifest, "calibration": calibration})
    return Model.open(folder, threads=1, device="cpu")


def test_scores_are_calibrated_by_the_manifest(tmp_path: Path) -> None:
    model = _recalibrated(
        tmp_path,
        match_scale=2.0,
        match_bias=-1.0,
        fused_similarity=3.0,
        fused_match=0.5,
        fused_bias=0.25,
        answer_temperature=1e6,
    )
    tokens = model.embed_video(colour_streams("red")).visual_tokens
    match = model.match(["a red thing"], tokens)
    assert match.probabilities[0] == pytest.approx(1 / (1 + np.exp(-(2 * match.logits[0] - 1))), rel=1e-5)
    fused = model.fused_score(np.array([0.5]), np.array([-2.0]))
    assert fused[0] == pytest.approx(1 / (1 + np.exp(-(1.5 - 1.0 + 0.25))), rel=1e-6)
    answers = model.answer(["which colour?"], tokens, top=10)[0]
    assert answers[0].probability == pytest.approx(answers[-1].probability, rel=1e-4)


def test_fused_scores_are_between_0_and_1(small_model: Model) -> None:
    fused = small_model.fused_score(np.array([-1.0, 0.0, 1.0]), np.array([-1e6, 0.0, 1e6]))
    assert fused.tolist() == sorted(fused.tolist())
    assert (fused[0], fused[2]) == (0.0, 1.0)
    with pytest.raises(InvalidInput, match="equal shapes"):
        small_model.fused_score(np.zeros(2), np.zeros(3))


def test_embed_file_returns_a_row_per_clip(small_model: Model, tmp_path: Path) -> None:
    frames = [solid((255, 0, 0))] * 20 + [solid((0, 0, 255))] * 20
    path = write_video(tmp_path / "two.mp4", frames, rate=10)
    embedding = small_model.embed_video_file(path, [(0.0, 2.0), (2.0, 4.0)])
    texts = small_model.embed_text(["red", "blue"])
    assert (embedding.vectors @ texts.T).argmax(axis=1).tolist() == [0, 1]
    assert small_model.embed_video_file(path).vectors.shape == (1, 16)


def test_many_clips_are_embedded_in_batches(small_model: Model, tmp_path: Path) -> None:
    path = write_color_video(tmp_path / "long.mp4", (0, 255, 0), 10.0)
    clips = [(0.1 * number, 0.1 * number + 0.1) for number in range(99)]
    vectors = small_model.embed_video_file(path, clips).vectors
    assert vectors.shape == (99, 16)
    assert np.abs(vectors @ vectors[0] - 1).max() < 1e-4


def test_an_image_is_embedded_as_a_still_video(small_model: Model, tmp_path: Path) -> None:
    picture = small_model.embed_video_file(write_picture(tmp_path / "p.png", solid((255, 255, 0))))
    video = small_model.embed_video_file(write_color_video(tmp_path / "v.mp4", (255, 255, 0)))
    assert picture.vectors.shape == (1, 16)
    assert (picture.vectors @ video.vectors.T).item() > 0.99


def test_a_still_picture_is_embedded_by_a_second_view_too(small_model: Model, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "views")
    rewrite_manifest(folder, mirrored_view=0.5)
    model = Model.open(folder, threads=1)
    pixels = solid((0, 0, 255))
    pixels[12:52, 18:78] = 255, 0, 0
    path = write_picture(tmp_path / "red on blue.png", pixels)
    whole = small_model.embed_video_file(path)
    middle = small_model.embed_video_file(write_picture(tmp_path / "red.png", solid((255, 0, 0))))
    both = model.embed_video_file(path)
    mean = whole.vectors + middle.vectors
    np.testing.assert_allclose(both.vectors, mean / np.linalg.norm(mean), atol=1e-3)
    np.testing.assert_array_equal(both.visual_tokens, whole.visual_tokens)
    assert np.abs(both.vectors - whole.vectors).max() > 0.01


def test_videos_have_one_view(small_model: Model, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "views")
    rewrite_manifest(folder, mirrored_view=0.5)
    path = write_video(tmp_path / "moving.mp4", moving_shot(3, 20))
    clips = [(0.0, 0.5), (0.1, 0.9)]
    vectors = Model.open(folder, threads=1).embed_video_file(path, clips).vectors
    np.testing.assert_array_equal(vectors, small_model.embed_video_file(path, clips).vectors)


def test_unreadable_files_and_empty_lists_of_clips_are_rejected(small_model: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"text")
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        small_model.embed_video_file(tmp_path / "bad.mp4")
    path = write_picture(tmp_path / "p.png", solid((255, 255, 0)))
    with pytest.raises(InvalidInput, match="clips: none"):
        small_model.embed_video_file(path, [])


@pytest.mark.parametrize("optimize", [True, False])
def test_results_depend_neither_on_the_batch_size_nor_on_optimization(small_bundle: Path, optimize: bool) -> None:
    bundle = Bundle.open(small_bundle)
    large = Model(bundle, threads=1, device="cpu", batch_size=64)
    small = Model(bundle, threads=1, device="cpu", batch_size=3, optimize=optimize)
    streams = colour_streams(*NAMES)
    texts = [f"{'a small ' * (number % 3)}{name} ball" for number, name in enumerate(NAMES)]
    videos = small.embed_video(streams)
    assert np.allclose(videos.vectors, large.embed_video(streams).vectors, atol=1e-6)
    assert np.allclose(small.embed_text(texts), large.embed_text(texts), atol=1e-6)
    tokens = videos.visual_tokens
    assert np.allclose(small.match(texts, tokens).logits, large.match(texts, tokens).logits, atol=1e-5)
    assert [a[0].text for a in small.answer(texts, tokens)] == [a[0].text for a in large.answer(texts, tokens)]
    with pytest.raises(InvalidInput, match="batch_size: 0"):
        Model(bundle, batch_size=0)


def test_empty_batches_give_empty_results(small_model: Model) -> None:
    no_tokens = np.zeros((0, 2, 16), np.float32)
    assert small_model.embed_text([]).shape == (0, 16)
    assert small_model.match([], no_tokens).probabilities.shape == (0,)
    assert small_model.answer([], no_tokens) == []
    empty = {name: array[:0] for name, array in colour_streams("red").items()}
    assert small_model.embed_video(empty).visual_tokens.shape == (0, 2, 16)


def _changed(name: str, change: Callable[[np.ndarray], Any]) -> Streams:
    streams: dict[str, Any] = dict(colour_streams("red", "blue"))
    streams[name] = change(streams[name])
    return streams


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ({}, r"streams: \[\]; \['high', 'low'\] were expected"),
        ({**colour_streams("red"), "depth": np.zeros(1)}, r"'depth'.* were expected"),
        (_changed("low", lambda a: a.astype(np.float32)), r"streams\['low'\]: float32 of shape .* uint8"),
        (_changed("low", lambda a: a[:, 0]), r"streams\['low'\]: .*\(2, 1, 6, 32, 32, 3\) was expected"),
        (_changed("low", lambda a: a[:, :, :5]), r"streams\['low'\]: uint8 of shape \(2, 1, 5, 32, 32, 3\)"),
        (_changed("low", lambda a: a[:1]), r"streams\['low'\]: .* shape \(2, 1, 6, 32, 32, 3\)"),
        (_changed("high", lambda a: a[..., :1]), r"streams\['high'\]: .*\(B, C, 1, 64, 64, 3\) was expected"),
        (_changed("high", lambda a: a.tolist()), r"streams\['high'\]: list"),
        (_changed("high", lambda a: a[:, :0]), r"streams\['high'\]"),
    ],
)
def test_invalid_streams_are_rejected(streams: Streams, reason: str, small_model: Model) -> None:
    with pytest.raises(InvalidInput, match=reason):
        small_model.embed_video(streams)


@pytest.mark.parametrize(
    "tokens",
    [np.zeros((1, 2, 16), np.int64), np.zeros((2, 2, 16), np.float32), np.zeros((1, 3, 16), np.float32), [0]],
)
def test_invalid_visual_tokens_are_rejected(tokens: Any, small_model: Model) -> None:
    with pytest.raises(InvalidInput, match=r"visual_tokens: .*shape \(1, 2, 16\) expected"):
        small_model.match(["red"], tokens)
    with pytest.raises(InvalidInput, match="visual_tokens"):
        small_model.answer(["which colour?"], tokens)


def test_invalid_texts_are_rejected(small_model: Model) -> None:
    tokens = np.zeros((2, 2, 16), np.float32)
    for call in (small_model.embed_text, lambda t: small_model.match(t, tokens)):
        with pytest.raises(TextError, match=r"texts\[1\]"):
            call(["red", "  "])
        with pytest.raises(InvalidInput, match="a list of strings"):
            call("red")
    with pytest.raises(InvalidInput, match="top: 0"):
        small_model.answer(["red", "blue"], tokens, top=0)


def test_missing_tasks_are_reported(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path, tasks=["retrieval"]), threads=1)
    tokens = model.embed_video(colour_streams("red")).visual_tokens
    with pytest.raises(TaskMissing, match="no graph 'match', so no matching; the bundle's tasks are retrieval"):
        model.match(["red"], tokens)
    with pytest.raises(TaskMissing, match="'answer'"):
        model.answer(["red"], tokens)
    only_matching = Model.open(make_small_bundle(tmp_path / "m", tasks=["matching"]), threads=1)
    with pytest.raises(TaskMissing, match="no graph 'text', so no retrieval or audio_retrieval"):
        only_matching.embed_text(["red"])
    only_sound = Model.open(make_small_bundle(tmp_path / "s", tasks=["audio_retrieval"]), threads=1)
    only_sound.warm_up()
    assert only_sound.embed_text(["red"]).shape == (1, 16)
    with pytest.raises(TaskMissing, match="no graph 'video', so no retrieval or matching or answering"):
        only_sound.embed_video(colour_streams("red"))


def test_a_model_is_thread_safe(small_bundle: Path) -> None:
    model = Model.open(small_bundle, threads=1, device="cpu")
    expected = Model.open(small_bundle, threads=1, device="cpu").embed_text(["a red thing"])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: model.embed_text(["a red thing"]), range(40)))
    assert all(np.array_equal(result, expected) for result in results)


def test_warm_up_loads_every_graph_and_reports_invalid_results(tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path, external_data=True, tasks=list(GRAPHS_OF_TASK))
    model = Model.open(folder, threads=1)
    model.warm_up()
    assert {*model.placements} == {graph for graphs in GRAPHS_OF_TASK.values() for graph in graphs}
    _replace_weights(folder, "answer.onnx", lambda array: array * np.nan)
    with pytest.raises(EngineError, match="answer: answer_logits has values that are not finite"):
        Model.open(folder, threads=1).warm_up()


def _replace_weights(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Modify the float weights of a graph and update the manifest."""
    model = onnx.load(folder / name, load_external_data=True)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(change(array), tensor.name))
    (folder / name).write_bytes(model.SerializeToString())
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vector_width": 32}, r"text\.onnx: output 'vector' is float32 \(any, 16\); float32 \(any, 32\)"),
        ({"graphs": {"text": "match.onnx"}}, r"match\.onnx: inputs .* were expected"),
        ({"graphs": {"video": "text.onnx"}}, r"text\.onnx: inputs .*'high', 'low'"),
        ({"visual_tokens": 9}, r"'visual_tokens' is float32 \(any, 2, 16\); float32 \(any, 9, 16\)"),
        ({"streams": [{**STREAMS[0], "height": 128}, STREAMS[1]]}, r"video\.onnx: input 'high'"),
        ({"streams": [STREAMS[0]]}, r"video\.onnx: inputs \['high', 'low'\]; \['high'\] were expected"),
    ],
)
def test_graphs_that_differ_from_the_manifest_are_rejected(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    graphs = {**manifest["graphs"], **change.get("graphs", {})}
    write_manifest(folder, {**manifest, **change, "graphs": graphs})
    with pytest.raises(BundleCorrupt, match=reason):
        Model.open(folder, threads=1).warm_up()


def test_the_vocabulary_must_have_an_answer_per_logit(tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path)
    (folder / "answers.json").write_text('["red", "green"]')
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    with pytest.raises(BundleCorrupt, match=r"'answer_logits' is float32 \(any, 10\); float32 \(any, 2\)"):
        Model.open(folder, threads=1).warm_up()
