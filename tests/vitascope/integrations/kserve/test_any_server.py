"""A model whose graphs a server runs gives what it gives in this process; `make kserve-check` asks any server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.vitascope.integrations.kserve.conftest import Place
from vitascope.bundle.bundle import Bundle
from vitascope.errors import EngineError
from vitascope.integrations.kserve.engine import check_server
from vitascope.model import Model

TEXTS = ["a red ball", "which color is the square and what moves to the left", "two dogs", "a", "blue", "on the left"]


@pytest.fixture(scope="module")
def here(place: Place) -> Model:
    return Model.open(place.bundle, device="cpu")


@pytest.fixture(scope="module")
def there(place: Place) -> Model:
    return Model.open(place.bundle, engine=place.engine)


@pytest.fixture(scope="module")
def streams(here: Model) -> dict[str, np.ndarray]:
    """Six videos of one clip."""
    rng = np.random.default_rng(3)
    return {s.name: rng.integers(0, 256, (6, 1, s.frames, s.height, s.width, 3), np.uint8) for s in here.streams}


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


def test_texts(here: Model, there: Model) -> None:
    close(there.embed_text(TEXTS), here.embed_text(TEXTS))


def test_videos_and_what_is_asked_of_them(here: Model, there: Model, streams: dict[str, np.ndarray]) -> None:
    expected, found = here.embed_video(streams), there.embed_video(streams)
    close(found.vectors, expected.vectors)
    close(found.visual_tokens, expected.visual_tokens)
    close(there.match(TEXTS, found.visual_tokens).logits, here.match(TEXTS, expected.visual_tokens).logits)
    for answers, wanted in zip(
        there.answer(TEXTS, found.visual_tokens, top=3), here.answer(TEXTS, expected.visual_tokens, top=3), strict=True
    ):
        assert [one.probability for one in answers] == pytest.approx([one.probability for one in wanted], abs=1e-4)


def test_videos_of_several_clips(here: Model, there: Model, streams: dict[str, np.ndarray]) -> None:
    pairs = {name: array.reshape(3, 2, *array.shape[2:]) for name, array in streams.items()}
    close(there.embed_video(pairs).vectors, here.embed_video(pairs).vectors)


def test_more_rows_than_the_server_takes_at_once(here: Model, there: Model) -> None:
    many = [f"{number} {text}" for number in range(9) for text in TEXTS]
    close(there.embed_text(many), here.embed_text(many))


def test_whoever_asks_at_the_same_time_gets_its_own(here: Model, there: Model) -> None:
    asked = [[text, *TEXTS[: number % 3]] for number, text in enumerate(TEXTS * 4)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(there.embed_text, asked))
    for vectors, texts in zip(found, asked, strict=True):
        close(vectors, here.embed_text(texts))


def test_it_is_ready_and_computes_what_the_graphs_compute(place: Place, there: Model) -> None:
    there.check_ready()
    outputs = check_server(Bundle.open(place.bundle), place.engine)
    assert {one.graph for one in outputs} == set(there.bundle.manifest.graphs)
    assert min(one.cosine for one in outputs) > 0.99999
    for one in outputs:
        print(f"{one.graph:8}{one.output:16}cosine {one.cosine:.9f}  largest difference {one.max_difference:.3g}")


def test_a_request_that_the_graph_cannot_run_is_told(there: Model) -> None:
    wrong = np.full((1, 3), 2**40)
    with pytest.raises(EngineError, match=f"model '{there.bundle.manifest.name}-.*-text': HTTP"):
        there.run_graph("text", {"input_ids": wrong, "attention_mask": np.ones_like(wrong)})
    assert there.embed_text(TEXTS).shape[0] == len(TEXTS)
