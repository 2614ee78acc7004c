"""The matrix for CLIPScore: its fit, and its addition to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.assemble import write_manifest
from model_export.caption_scores import CaptionedVideos, correlation, fit_caption_matrix
from tests.model_export.conftest import copy_bundle
from tests.once import made_once
from tests.small_bundle import make_small_bundle
from training.models.pretrained import embed_sentences
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.embeddings import VideoEmbedding
from vitascope.model import Model
from vitascope.scoring import normalize_rows, score_captions

WIDTH = 4


def random_videos(videos: int, captions: int) -> CaptionedVideos:
    """Return videos whose embeddings neglect two of the four dimensions of their captions."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((videos, WIDTH))
    of = np.repeat(np.arange(videos), captions)
    texts = normalize_rows(topics[of] + 0.3 * rng.standard_normal((len(of), WIDTH)))
    sentences = topics[of] @ rng.standard_normal((WIDTH, 9)) + 0.3 * rng.standard_normal((len(of), 9))
    return CaptionedVideos(normalize_rows(topics @ np.diag([1.0, 0.2, 1.0, 0.1])), texts, sentences, of)


def test_the_matrix_is_the_least_squares_solution_over_all_pairs() -> None:
    data = random_videos(5, 3)
    ridge = 0.01
    fitted = fit_caption_matrix(data, ridge)

    centred = normalize_rows(data.sentences_TS - data.sentences_TS.mean(axis=0))
    means = normalize_rows(np.stack([centred[data.video_of_T == video].mean(axis=0) for video in range(5)]))
    target, cosine = (means @ centred.T).ravel(), (data.videos_ND @ data.texts_TD.T).ravel()
    slope, offset = np.polyfit(target, cosine, 1)
    products = np.einsum("nd,te->nted", data.videos_ND, data.texts_TD).reshape(-1, WIDTH * WIDTH)
    pairs = len(products)
    rows = np.concatenate([products / pairs**0.5, ridge**0.5 * np.eye(WIDTH * WIDTH)])
    targets = np.concatenate([(slope * target + offset) / pairs**0.5, ridge**0.5 * np.eye(WIDTH).ravel()])
    expected = np.linalg.lstsq(rows, targets)[0].reshape(WIDTH, WIDTH)
    np.testing.assert_allclose(fitted, expected, atol=1e-9)


def test_scores_of_other_videos_follow_the_similarity_of_captions_better() -> None:
    data = random_videos(300, 4)
    first = CaptionedVideos(data.videos_ND[:150], data.texts_TD[:600], data.sentences_TS[:600], data.video_of_T[:600])
    others = CaptionedVideos(data.videos_ND[150:], data.texts_TD[600:], data.sentences_TS[600:], first.video_of_T)
    fitted = fit_caption_matrix(first, 1e-4)
    assert correlation(others, fitted) > correlation(others, np.eye(WIDTH)) + 0.05
    np.testing.assert_allclose(fit_caption_matrix(first, 1e6), np.eye(WIDTH), atol=1e-5)


def test_sentences_of_like_meaning_have_similar_embeddings() -> None:
    dog, hound, car = embed_sentences(["A dog runs on grass.", "a hound is running over a meadow", "A red car."])
    np.testing.assert_allclose(np.linalg.norm([dog, hound, car], axis=1), 1, atol=1e-5)
    assert dog @ hound > 0.5 > dog @ car


@pytest.fixture(scope="module")
def graded(bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a matrix; read-only."""

    def make(root: Path) -> None:
        bundle = copy_bundle(bundles["float32"], root / "bundle")
        options = ["--caption-scores", "squares", "--data", str(folders[1]), "--version", "1.1.0"]
        assert main(["export", str(bundle), *options]) == 0

    return made_once(tmp_path_factory, "graded", make) / "bundle"


def test_clipscore_uses_the_matrix_and_nothing_else_changes(graded: Path, bundles: dict[str, Path]) -> None:
    before, after = Model.open(bundles["float32"], threads=1), Model.open(graded, threads=1)
    assert after.bundle.fingerprint == before.bundle.fingerprint
    assert after.bundle.manifest.version == "1.1.0"
    matrix = after.caption_matrix
    assert matrix is not None
    manifest, captions = after.bundle.manifest, ["a red square", "green", "a blue square moves left"]
    texts = after.embed_text(captions)
    tokens = np.ones((1, manifest.visual_tokens, manifest.visual_width), np.float16)
    clip = VideoEmbedding(normalize_rows(texts.mean(axis=0, keepdims=True)), tokens)
    old = score_captions(before, clip, captions, ["red"])
    new = score_captions(after, clip, captions, ["red"])
    cosines = normalize_rows(texts @ matrix) @ clip.vectors[0]
    assert [scores.clipscore for scores in new] == pytest.approx(2.5 * np.maximum(cosines, 0), abs=1e-6)
    assert [scores.clipscore for scores in new] != pytest.approx([scores.clipscore for scores in old], abs=1e-3)
    for name in ("similarity", "match", "fused", "reference_similarity"):
        assert [getattr(scores, name) for scores in new] == [getattr(scores, name) for scores in old]
    for scores in new:
        a, b = scores.clipscore or 0, max(scores.reference_similarity or 0, 0)
        assert scores.refclipscore == pytest.approx(2 * a * b / (a + b) if a and b else 0)


def test_the_card_states_the_corpus(graded: Path) -> None:
    card = (graded / "MODEL_CARD.md").read_text()
    assert "| CLIPScore | by a matrix that was fitted to squares/train |" in card
    facts = Bundle.open(graded).manifest.extra["caption_scores"]
    assert facts["measured_on"] == "squares/val"
    assert facts["after"] > facts["before"]


def test_the_card_of_a_bundle_that_was_not_trained_here_is_kept(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = copy_bundle(bundles["float32"], tmp_path / "bundle")
    manifest = Bundle.open(bundle).manifest
    (bundle / "MODEL_CARD.md").write_text("# A public model\n")
    (bundle / "NOTICE.md").unlink()
    write_manifest(bundle, manifest.model_dump() | {"extra": {}, "training_data": ["its own: MIT"]})
    assert main(["export", str(bundle), "--caption-scores", "squares", "--data", str(folders[1])]) == 0
    after = Bundle.open(bundle)
    assert after.caption_matrix is not None
    assert [entry.split(":")[0] for entry in after.manifest.training_data] == ["its own", "squares"]
    assert (bundle / "NOTICE.md").read_text().count("## squares") == 1
    assert (bundle / "MODEL_CARD.md").read_text() == "# A public model\n"


def test_a_matrix_is_not_fitted_without_corpus_or_text_embeddings(
    graded: Path, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (graded / "manifest.json").read_bytes()
    assert main(["export", str(graded), "--caption-scores", "squares"]) == 2
    assert "data: missing" in capsys.readouterr().err
    assert main(["export", str(graded), "--caption-scores", "nothing", "--data", str(folders[1])]) == 2
    assert "nothing" in capsys.readouterr().err
    assert (graded / "manifest.json").read_bytes() == before
    matching = make_small_bundle(tmp_path / "matching", tasks=["matching"])
    assert main(["export", str(matching), "--caption-scores", "squares", "--data", str(folders[1])]) == 2
    assert "'retrieval' was expected" in capsys.readouterr().err
    assert main(["export", str(folders[0]), "--caption-scores", "squares", "--out", str(tmp_path / "out")]) == 2
    assert "--caption-scores is for bundles" in capsys.readouterr().err
