"""Results of a server equal those of this process; `make kserve-check` runs this with any server."""

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


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-4)


def test_embeddings_of_texts_are_equal(here: Model, there: Model) -> None:
    close(there.embed_text(TEXTS), here.embed_text(TEXTS))


def test_videos_matches_and_answers_are_equal(here: Model, there: Model, streams: dict[str, np.ndarray]) -> None:
    expected, actual = here.embed_video(streams), there.embed_video(streams)
    close(actual.vectors, expected.vectors)
    close(actual.visual_tokens, expected.visual_tokens)
    close(there.match(TEXTS, actual.visual_tokens).logits, here.match(TEXTS, expected.visual_tokens).logits)
    for answers, expected_answers in zip(
        there.answer(TEXTS, actual.visual_tokens, top=3), here.answer(TEXTS, expected.visual_tokens, top=3), strict=True
    ):
        assert [answer.probability for answer in answers] == pytest.approx(
            [answer.probability for answer in expected_answers], abs=1e-4
        )


def test_videos_of_several_clips_are_equal(here: Model, there: Model, streams: dict[str, np.ndarray]) -> None:
    pairs = {name: array.reshape(3, 2, *array.shape[2:]) for name, array in streams.items()}
    close(there.embed_video(pairs).vectors, here.embed_video(pairs).vectors)


def test_batches_above_the_maximum_of_the_server_are_split(here: Model, there: Model) -> None:
    many = [f"{number} {text}" for number in range(9) for text in TEXTS]
    close(there.embed_text(many), here.embed_text(many))


def test_concurrent_calls_get_their_own_results(here: Model, there: Model) -> None:
    batches = [[text, *TEXTS[: number % 3]] for number, text in enumerate(TEXTS * 4)]
    with ThreadPoolExecutor(8) as threads:
        actual = list(threads.map(there.embed_text, batches))
    for vectors, texts in zip(actual, batches, strict=True):
        close(vectors, here.embed_text(texts))


def test_the_server_is_ready_and_passes_the_parity_check(place: Place, there: Model) -> None:
    there.check_ready()
    outputs = check_server(Bundle.open(place.bundle), place.engine)
    assert {output.graph for output in outputs} == set(there.bundle.manifest.graphs)
    assert min(output.cosine for output in outputs) > 0.99999
    for output in outputs:
        print(f"{output.graph:8}{output.output:16}cosine {output.cosine:.9f}  difference {output.max_difference:.3g}")


def test_a_failed_run_names_the_model(there: Model) -> None:
    wrong = np.full((1, 3), 2**40)
    with pytest.raises(EngineError, match=f"model '{there.bundle.manifest.name}-.*-text': HTTP"):
        there.run_graph("text", {"input_ids": wrong, "attention_mask": np.ones_like(wrong)})
    assert there.embed_text(TEXTS).shape[0] == len(TEXTS)
