"""Graphs and FAISS on a GPU have the results of the CPU (`make gpu-check`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
import pytest

from index.vectors import gpu
from vitascope.embeddings import VideoEmbedding
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.library import load_library
from vitascope.model import Model

pytestmark = pytest.mark.gpu

BUNDLE = Path(__file__).parents[2] / "bundles" / "hd-vila-tiny"
TEXTS = ["a red square moves left", "what is it?", *["a dog runs over the grass beside a river"] * 40]


@pytest.fixture(scope="module", params=["cuda", "tensorrt"])
def on_gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    if request.param == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs the GPU build of onnxruntime")
    if request.param == "tensorrt":
        try:
            load_library()
        except EngineError as error:
            pytest.skip(f"needs TensorRT: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path_factory.mktemp("engines")))
        model = Model.open(BUNDLE, device=request.param)
        model.warm_up()
        yield model


@pytest.fixture(scope="module")
def on_cpu() -> Model:
    return Model.open(BUNDLE, device="cpu")


def seen(model: Model, rows: int, clips: int) -> VideoEmbedding:
    rng = np.random.default_rng(rows)
    return model.embed_video(
        {
            s.name: rng.integers(0, 256, (rows, clips, s.frames, s.height, s.width, 3), dtype=np.uint8)
            for s in model.streams
        }
    )


def test_every_graph_really_runs_there(on_gpu: Model) -> None:
    for graph, placement in on_gpu.placements.items():
        assert placement.device in ("cuda", "tensorrt"), (graph, placement)
        assert placement.fallback is None, (graph, placement)
        assert placement.gpu_name


@pytest.mark.parametrize(("rows", "clips"), [(1, 1), (3, 2), (40, 1)])
def test_videos(rows: int, clips: int, on_gpu: Model, on_cpu: Model) -> None:
    actual, expected = seen(on_gpu, rows, clips), seen(on_cpu, rows, clips)
    assert (actual.vectors * expected.vectors).sum(axis=1).min() > 0.999
    assert np.abs(actual.visual_tokens - expected.visual_tokens).max() < 0.05 * np.abs(expected.visual_tokens).max()


def test_texts_matches_and_answers(on_gpu: Model, on_cpu: Model) -> None:
    assert (on_gpu.embed_text(TEXTS) * on_cpu.embed_text(TEXTS)).sum(axis=1).min() > 0.999
    tokens = np.repeat(seen(on_cpu, 1, 1).visual_tokens, len(TEXTS), axis=0)
    actual, expected = on_gpu.match(TEXTS, tokens), on_cpu.match(TEXTS, tokens)
    assert np.abs(actual.probabilities - expected.probabilities).max() < 0.0125
    answers = [
        [answer.text for answer in row[:1]] for model in (on_gpu, on_cpu) for row in model.answer(TEXTS[:3], tokens[:3])
    ]
    assert answers[:3] == answers[3:]


pytestmark = pytest.mark.gpu


def test_a_flat_index_on_the_gpu_finds_the_same() -> None:
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        pytest.skip("needs the GPU build of FAISS")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(64)
    index.add(vectors)
    gpu_index = gpu.copy_to_gpu(index)
    assert gpu_index is not None
    cosines, positions = gpu_index.search(vectors[:50], 10)
    right_cosines, right_positions = index.search(vectors[:50], 10)
    assert (positions[:, 0] == np.arange(50)).all()
    np.testing.assert_allclose(cosines, right_cosines, atol=1e-3)
    shared = [len(set(a) & set(b)) for a, b in zip(positions.tolist(), right_positions.tolist(), strict=True)]
    assert np.mean(shared) >= 9.9
