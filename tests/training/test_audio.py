"""The audio encoder, sound in the fused layers, and training with sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers.audio_utils import mel_filter_bank, spectrogram

from tests.training.data.corpus_files import tone, wav
from tests.training.small_run import recipe, write_corpus, write_tokenizer
from tests.training.test_hd_vila import small_config
from training import checkpoint
from training.data.audio_batch import Audio, augment_audio
from training.data.batch import Batch, Tokens
from training.data.example import Example, Needs, Negative, Question
from training.data.packed import EncodedMedia, Origin, Packed, write_packed
from training.evaluation.encoder import embed_texts
from training.evaluation.report import evaluate
from training.evaluation.sound import EmbeddedSounds, scene_metrics, search_scores
from training.evaluation.torch_encoder import TorchEncoder
from training.models.architectures import build, read_config
from training.models.audio import FEATURE_MEAN, FEATURE_SCALE, MIN_POWER, AudioEncoder, LogMel
from training.models.config import AUDIO_SIZES
from training.models.fusion import AUDIO_PREFIXES, FusedModel
from training.objectives import losses
from training.recipe import AUDIO_OBJECTIVES, DatasetConfig, Recipe, Stage
from training.train_step import WordMasking, compute_losses
from training.trainer import train
from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput
from vitascope.scoring import similarity_probability
from vitascope.tokenizer import Tokenizer

RATE = 16_000
SMALL_AUDIO = {"backbone": "test_resnet", "seconds": 1.6, "width": 16, "heads": 2, "layers": 1, "dropout": 0.0}
LENGTHS = torch.tensor([25_600, 9_000, 0])


def sounds() -> torch.Tensor:
    torch.manual_seed(3)
    samples = 0.1 * torch.randn(3, 25_600)
    return samples * (torch.arange(25_600) < LENGTHS[:, None])


def small_model(**changes: Any) -> FusedModel:
    torch.manual_seed(0)
    return build(small_config(**{"audio": SMALL_AUDIO, "dropout": 0.0} | changes)).eval()


@pytest.fixture(scope="module")
def small() -> FusedModel:
    model = small_model()
    torch.nn.init.constant_(model.match_audio_scale, 0.3)
    torch.nn.init.normal_(model.match_head.weight)
    return model


def test_features_are_the_log_mel_spectrogram() -> None:
    samples = sounds()[:1]
    window = np.cos(np.pi * (np.arange(400) - 199.5) / 400) ** 2
    filters = mel_filter_bank(201, 64, 0.0, 8000.0, RATE, mel_scale="slaney")
    power = spectrogram(
        np.pad(samples[0].numpy(), 120), window / window.sum(), 400, 160, center=False, power=2.0, mel_filters=filters
    )
    expected = (np.log(np.maximum(power.T, MIN_POWER)) - FEATURE_MEAN) * FEATURE_SCALE
    with torch.autocast("cpu", torch.bfloat16):  # features need the precision of float32 in any stage
        features = LogMel(AUDIO_SIZES["tiny"])(samples)
    assert features.shape == (1, 160, 64)
    assert np.allclose(features[0], expected, atol=1e-4)


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_sizes_have_the_tokens_that_their_streams_state(size: str) -> None:
    cfg = AUDIO_SIZES[size]
    layers = cfg.model_copy(update={"layers": 1})  # of base, which is slow
    torch.manual_seed(0)
    encoder = AudioEncoder(layers, 24).eval()
    with torch.no_grad():
        tokens = encoder(0.1 * torch.randn(1, cfg.samples), torch.tensor([cfg.samples // 2]))
    stream = cfg.stream()
    assert (stream.samples, stream.fill) == (cfg.samples, "silence")
    assert tokens.shape == (1, stream.tokens, stream.width)
    heard = tokens[0].abs().sum(dim=-1) > 0
    assert heard.sum() == pytest.approx(stream.tokens / 2, abs=2)
    assert heard[: int(heard.sum())].all()


def test_the_small_audio_encoder_has_at_most_six_million_parameters() -> None:
    encoder = AudioEncoder(AUDIO_SIZES["tiny"], 256)
    assert sum(p.numel() for p in encoder.parameters()) < 6e6


def test_tokens_and_embeddings_do_not_depend_on_what_else_is_in_the_batch(small: FusedModel) -> None:
    with torch.no_grad():
        embeddings, tokens = small.encode_audio(sounds(), LENGTHS)
        alone, _ = small.encode_audio(sounds()[1:2], LENGTHS[1:2])
    assert torch.allclose(embeddings[1], alone[0], atol=1e-5)
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert tokens.shape == (3, 5, 16)
    assert (tokens.abs().sum(dim=-1) > 0).tolist() == [[True] * 5, [True, True, True, False, False], [False] * 5]


@pytest.mark.parametrize(("length", "is_short"), [(15_999, True), (16_000, False), (25_600, False)])
def test_a_quarter_of_a_second_of_silence_precedes_a_short_sound(
    small: FusedModel, length: int, is_short: bool
) -> None:
    sound = sounds()[:1] * (torch.arange(25_600) < length)
    later = torch.nn.functional.pad(sound, (4000, 0))[:, :25_600]
    with torch.no_grad():
        tokens = small.encode_audio(sound, torch.tensor([length]))[1]
        expected = small.encode_audio(later, torch.tensor([min(length + 4000, 25_600)]))[1]
    assert torch.allclose(tokens, expected, atol=1e-5) == is_short


@pytest.mark.parametrize(("seconds", "inner"), [(0.9, 1), (3.0, 7)])
def test_trimmed_windows_have_the_tokens_of_whole_ones(seconds: float, inner: int) -> None:
    """inner: Number of tokens that hardly see beyond the end of the sound, even by random weights."""
    cfg = AUDIO_SIZES["tiny"]
    torch.manual_seed(0)
    encoder = AudioEncoder(cfg, 24).eval()
    lengths = torch.tensor([round(seconds * RATE)])
    samples = 0.1 * torch.randn(1, cfg.samples) * (torch.arange(cfg.samples) < lengths)
    trimmed = encoder.trim(samples, lengths)
    assert trimmed.shape[1] < (seconds + 1.3) * RATE
    with torch.no_grad():
        actual, expected = encoder(trimmed, lengths)[0], encoder(samples, lengths)[0]
    present = int(expected.any(dim=-1).sum())
    assert int(actual.any(dim=-1).sum()) == present
    cosines = torch.cosine_similarity(actual[:present], expected[:present], dim=-1)
    assert cosines.min() > 0.98
    assert cosines[:inner].min() > 0.999


def test_masks_hide_a_part_of_the_features_in_training_alone(small: FusedModel) -> None:
    with torch.no_grad():
        plain, _ = small.encode_audio(sounds(), LENGTHS)
        masked, _ = small.encode_audio(sounds(), LENGTHS, masked=0.5)
        again, _ = small.encode_audio(sounds(), LENGTHS)
    assert torch.equal(plain, again)
    assert not torch.allclose(plain[0], masked[0], atol=1e-4)


@pytest.mark.parametrize("visual_reads_text", [False, True])
def test_a_clip_without_sound_is_fused_as_by_a_model_without_sound(visual_reads_text: bool) -> None:
    plain = small_model(audio=None, visual_reads_text=visual_reads_text)
    hearing = small_model(visual_reads_text=visual_reads_text)
    before, after = plain.state_dict(), hearing.state_dict()
    assert all(name.startswith(AUDIO_PREFIXES) == (name not in before) for name in after)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    torch.nn.init.normal_(hearing.match_head.weight)
    plain.match_head.load_state_dict(hearing.match_head.state_dict())
    ids = torch.randint(1, 100, (6, 9), generator=torch.Generator().manual_seed(1))
    mask, visual = torch.ones_like(ids), torch.randn(3, 4, 32)
    with torch.no_grad():
        _, tokens = hearing.encode_audio(sounds(), LENGTHS)
        states = plain.text.encode(ids, mask)
        expected = plain.match_logits(states, mask, plain.prepare_visual(visual)).unflatten(0, (3, 2))
        without = hearing.match_logits(states, mask, hearing.prepare_visual(visual)).unflatten(0, (3, 2))
        actual = hearing.match_logits(states, mask, hearing.prepare_visual(visual, tokens)).unflatten(0, (3, 2))
        answers = hearing.answer_logits(states, mask, hearing.prepare_visual(visual, tokens))
    assert torch.equal(expected, without)
    assert torch.allclose(expected[2], actual[2], atol=1e-5)  # the third clip is silent
    assert (expected[:2] - actual[:2]).abs().min() > 1e-4
    assert answers.shape == (6, 7)


def test_tokens_after_the_end_of_a_sound_and_missing_pictures_are_not_read(small: FusedModel) -> None:
    ids = torch.randint(1, 100, (3, 9))
    mask, nothing = torch.ones_like(ids), torch.zeros(3, 4, 32)
    with torch.no_grad():
        _, tokens = small.encode_audio(sounds(), LENGTHS)
        states = small.text.encode(ids, mask)
        logits = small.match_logits(states, mask, small.prepare_visual(nothing, tokens))
        shorter = small.match_logits(states[1:2], mask[1:2], small.prepare_visual(nothing[1:2], tokens[1:2, :3]))
        fused = small.text.fuse(states, mask, small.prepare_visual(nothing, tokens))
    assert torch.allclose(logits[1], shorter[0], atol=1e-5)
    assert torch.allclose(fused[2], small.text.fuse_text_only(states, mask)[2], atol=1e-5)  # neither picture nor sound


def test_a_configuration_without_sound_is_stored_as_before() -> None:
    silent = small_config()
    assert "audio" not in silent.model_dump_json()
    hearing = read_config(silent.model_dump() | {"audio": "tiny"})
    assert hearing.audio == AUDIO_SIZES["tiny"]
    assert read_config(hearing.model_dump()) == hearing
    with pytest.raises(ValidationError, match="'huge'; one of"):
        small_config(audio="huge")


def test_the_pairwise_loss_equals_the_contrastive_loss_if_no_embedding_is_missing() -> None:
    torch.manual_seed(0)
    sound, text = (torch.nn.functional.normalize(torch.randn(n, 8), dim=-1) for n in (4, 8))
    groups = torch.tensor([0, 1, 2, 2])
    expected = losses.itc(sound, text, 0.1, groups)
    assert torch.allclose(losses.paired_itc(sound, text, 0.1, groups, groups.repeat_interleave(2)), expected)


def test_missing_embeddings_are_ignored_and_others_are_negatives() -> None:
    torch.manual_seed(0)
    sound, text = (torch.nn.functional.normalize(torch.randn(4, 8), dim=-1) for _ in range(2))
    groups, some = torch.arange(4), torch.tensor([0, 1, losses.MISSING, 3])
    kept = [0, 1, 3]
    expected = losses.paired_itc(sound[kept], text[kept], 0.1, groups[:3], groups[:3])
    assert torch.allclose(losses.paired_itc(sound, text, 0.1, some, some), expected)
    with_negative = losses.paired_itc(sound, text, 0.1, some, torch.tensor([0, 1, losses.OTHER, 3]))
    assert with_negative > expected
    assert losses.paired_itc(sound, text, 0.1, some, torch.full((4,), losses.MISSING)) == 0.0


def test_sounds_are_cut_and_made_louder_or_quieter_at_random() -> None:
    dataset = DatasetConfig(corpus="a", weight=1, batch_size=2, objectives={"itc": 1}, gain=6.0, min_sound=0.5)
    samples = torch.full((2, 1000), 0.25)
    samples[1, 400:] = 0.0
    audio = Audio(samples, torch.tensor([1000, 400]), torch.tensor([True, True]))
    changed = augment_audio(audio, dataset, np.random.default_rng(0))
    assert all(0.5 <= share < 1.0 for share in (changed.lengths / audio.lengths).tolist())
    for row, length in zip(changed.samples, changed.lengths, strict=True):
        assert (row[length:] == 0).all()
        assert (row[:length] == row[0]).all()
        assert 0.125 <= row[0] <= 0.5


def test_sounds_are_delayed_and_change_their_speed_and_noise_at_random() -> None:
    dataset = DatasetConfig(
        corpus="a", weight=1, batch_size=3, objectives={"itc": 1}, speed=0.2, noise=0.01, delay=0.05
    )
    samples = torch.zeros(3, 3000)
    samples[:2, :1000] = 0.5
    audio = Audio(samples, torch.tensor([1000, 1000, 0]), torch.tensor([True, True, False]))
    changed = augment_audio(audio, dataset, np.random.default_rng(0))
    for row, length in zip(changed.samples[:2], changed.lengths[:2].tolist(), strict=True):
        audible = torch.nonzero(row)[:, 0]
        assert 0 < int(audible[0]) <= 800
        assert 1000 / 1.2 <= length - int(audible[0]) <= 1000 / 0.8 + 1
        assert 0 < float((row[audible] - 0.5).std()) < 0.02
        assert int(audible[-1]) == length - 1
    assert not changed.samples[2].any()
    assert changed.lengths[2] == 0


NEEDS: tuple[Needs, ...] = ("sight", "sound", "both")
NAMES = {"red": 300.0, "green": 700.0, "blue": 1500.0, "yellow": 3000.0}
"""Hz of the tone that each name is given."""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tones with the names of colours, and the silent pictures of `squares`."""
    folder = tmp_path_factory.mktemp("tones")
    write_corpus(folder / "data", folder)
    items = [
        (
            Example(f"{name} {i}", (f"a {name} square",), attributes={"colour": name}, caption_needs=("sound",)),
            EncodedMedia("a.wav", wav(tone(hertz, 0.5 + 0.1 * i))),
        )
        for name, hertz in NAMES.items()
        for i in range(2)
    ]
    write_packed(folder / "data" / "tones" / "train", (), items, Origin("a test", "none", "all"), audio=True)
    return folder / "data", write_tokenizer(folder / "tokenizer.json")


def sound_recipe(tokenizer: Path, steps: int = 2, **changes: Any) -> Recipe:
    sounds = {"corpus": "tones", "weight": 1.0, "batch_size": 8, "group_by": "colour", "gain": 3.0, "spec_mask": 0.1}
    stage = {"steps": steps, "learning_rate": 3e-3, "backbone_lr_mult": 1.0}
    objectives = {"text_audio": 1.0, "video_audio": 1.0}
    pictures = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "objectives": {"itm": 1.0}}
    fused = [pictures, sounds | {"objectives": {"itm": 1.0}}]
    stages = [
        {"name": "sound", "frozen": "all_but_audio", "datasets": [sounds | {"objectives": objectives}], **stage},
        {"name": "fusion", "frozen": "encoders", "datasets": fused, **stage},
    ]
    plain = recipe(tokenizer)
    return recipe(tokenizer, model=plain.model | {"audio": SMALL_AUDIO}, stages=stages).model_copy(update=changes)


def test_sound_is_added_to_a_trained_model_and_an_interrupted_run_ends_equally(
    corpora: tuple[Path, Path], tmp_path: Path
) -> None:
    data, tokenizer = corpora
    silent = recipe(tokenizer, steps=1)
    start = train(silent.model_copy(update={"stages": silent.stages[:1]}), data, tmp_path / "silent")
    made = sound_recipe(tokenizer)
    whole = checkpoint.load(train(made, data, tmp_path / "whole", start_from=start)).model.state_dict()
    train(made, data, tmp_path / "parts", start_from=start, stop_after=1)
    first = checkpoint.load(train(made, data, tmp_path / "parts", start_from=start, stop_after=1)).model.state_dict()
    before = checkpoint.load(start).model.state_dict()
    assert all(torch.equal(weight, first[name]) for name, weight in before.items())
    resumed = checkpoint.load(train(made, data, tmp_path / "parts", start_from=start)).model.state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    changed = {name for name, weight in first.items() if not torch.equal(weight, whole[name])}
    assert {"audio_embeddings.kind", "match_audio_scale"} <= changed
    assert not any(name.startswith(("audio.", "video.", "text_project.")) for name in changed)
    measured = evaluate(tmp_path / "parts" / "checkpoint", data, "train", ["tones"])["tones"]
    assert measured["sounds"] == 8
    assert 0.0 <= measured["t2v R@1"] <= 100.0
    with pytest.raises(InvalidInput, match="the model has no sound"):
        evaluate(start, data, "train", ["tones"])


def test_losses_of_sound_on_means_of_cached_features_are_those_on_visual_tokens(small: FusedModel) -> None:
    ids = torch.arange(5, 11)[:, None].expand(-1, 3).contiguous()
    tokens = torch.randn(3, 4, small.cfg.visual_width)
    whole = Batch(
        dataset=DatasetConfig(
            corpus="made", weight=1, batch_size=3, captions_per_video=2, objectives=dict.fromkeys(AUDIO_OBJECTIVES, 1.0)
        ),
        streams=None,
        visual={"visual": tokens},
        times=None,
        groups=torch.arange(3),
        rows=np.arange(3),
        captions=Tokens(ids, torch.ones_like(ids)),
        negatives=None,
        questions=None,
        answers=None,
        audio=Audio(sounds(), LENGTHS, LENGTHS > 0),
        audible=torch.tensor([True, False] * 3),
    )
    means = replace(whole, visual={"tokens": tokens.mean(dim=1)})
    words = WordMasking(0, torch.tensor([0]), small.cfg.vocabulary)
    with torch.no_grad():
        expected, computed = (compute_losses(small, batch, words, None) for batch in (whole, means))
    assert set(computed) == AUDIO_OBJECTIVES
    assert torch.allclose(torch.stack(list(computed.values())), torch.stack(list(expected.values())), atol=1e-5)


def test_clips_are_searched_by_what_is_seen_heard_or_both(tmp_path: Path) -> None:
    model = small_model()
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path / "tokenizer.json"), max_length=16)
    encoder = TorchEncoder(model, tokenizer, [f"answer {i}" for i in range(7)])
    captions = ("a red square", "a blue square", "is it a red square ?")
    questions = (Question("what color is it ?", ("answer 0",), "sound", "sound"),)
    examples = [
        Example(f"{i}", captions, questions, (Negative("a green square", 1, 1, "sound"),), caption_needs=NEEDS)
        for i in range(3)
    ]
    packed = Packed(tmp_path, (), {}, examples, {})
    texts = embed_texts(encoder, [captions[0], captions[1]])
    # The pictures are those of the first caption, and the sound is that of the second, of the first two clips.
    videos, heard = np.stack([texts[0], texts[0], -texts[0]]), np.stack([texts[1], texts[1], 0 * texts[1]])
    tokens = model.encode_audio(sounds(), LENGTHS)[1].detach().numpy()
    measured = scene_metrics(encoder, packed, videos, np.ones((3, 4, 32), np.float16), EmbeddedSounds(heard, tokens))
    assert measured["t2v R@1 (sight)"] == measured["t2v R@1 (sound) [sight blanked]"] == 100.0
    for key in ("exact (sound)", "exact (sound) [sound blanked]", "exact (sound) [sight blanked]"):
        assert 0.0 <= measured[key] <= 100.0
    assert "right caption match (sound)" in measured
    not_fused = scene_metrics(encoder, packed, videos, np.ones((3, 4, 32), np.float16), EmbeddedSounds(heard, None))
    assert [key for key in not_fused if key.startswith("exact")] == ["exact (sound)", "exact (sound: sound)"]
    calibration = Calibration(similarity_scale=5.0, similarity_bias=-2.0)
    scores = search_scores(calibration, texts, videos, heard)
    seen = similarity_probability(calibration, texts @ videos.T)
    assert seen is not None
    assert (scores[:, :2] > seen[:, :2]).all()
    assert scores[:, 2] == pytest.approx(seen[:, 2])  # without sound


def test_objectives_of_sound_need_an_encoder_and_a_corpus_with_sound(
    corpora: tuple[Path, Path], tmp_path: Path
) -> None:
    data, tokenizer = corpora
    with pytest.raises(InvalidInput, match="for a model without sound"):
        train(sound_recipe(tokenizer, model=recipe(tokenizer).model), data, tmp_path / "deaf")
    stage = sound_recipe(tokenizer).stages[0].model_dump()
    (dataset,) = stage.pop("datasets")
    of_pictures = stage | {"datasets": [dataset | {"corpus": "squares", "objectives": {"text_audio": 1.0}}]}
    with pytest.raises(InvalidInput, match="packed without sound"):
        train(sound_recipe(tokenizer, stages=[Stage.model_validate(of_pictures)]), data, tmp_path / "silent corpus")
    with pytest.raises(ValidationError, match="'all_but_audio'; some of"):
        recipe(tokenizer, stages=[stage | {"datasets": [dataset | {"objectives": {"itc": 1.0}}]}])
