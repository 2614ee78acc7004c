"""Inputs for comparing graphs with the torch model: random inputs, and the first examples of corpora.

Shape letters: B samples, C clips, F frames, H height, W width, L text tokens, N answers, M answer tokens, T audio
tokens, A their width, V visual tokens, K their width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_export.graphs import (
    Arrays,
    GraphSpec,
    Sizes,
    caption_inputs,
    graph_specs,
    random_answers,
    random_sounds,
    random_streams,
    random_tokens,
    run_torch,
)
from training.data.audio_batch import read_audio
from training.data.packed import Packed
from training.evaluation.encoder import streams_of
from training.models.fusion import FusedModel
from vitascope.bundle.graph_specs import ANSWER_IDS, AUDIO_TOKENS, LENGTHS, SAMPLES
from vitascope.bundle.manifest import CAPTION_GRAPHS, AudioStream
from vitascope.tokenizer import Tokenizer

InputKind = Literal["random", "real"]
_ANSWER_SIZES = ((1, 2), (3, 5), (100, 4), (2, 9))
"""(N, M) of candidate answers. The numbers are so small that the graph scores all answers. Of more answers it scores
only some, and arbitrarily small differences can change which."""


@dataclass(frozen=True)
class Case:
    """Inputs of one run by name."""

    kind: InputKind
    inputs: Arrays


def random_cases(specs: Sequence[GraphSpec], cfg: Sizes, seed: int) -> dict[str, list[Case]]:
    """Return random inputs by graph: B 1 to 3, C 1 and 2, L 2 to the text length, to detect sizes fixed by export."""
    rng = np.random.default_rng(seed)
    videos = [random_streams(cfg, rng, batch, clips) for batch, clips in ((1, 1), (3, 2), (2, 1))]
    lengths = ((1, 2), (3, cfg.text_length), (2, max(2, cfg.text_length // 2)), (1, cfg.text_length - 1))
    texts = [random_tokens(cfg, rng, batch, length) for batch, length in lengths]
    visual = _visual_tokens(specs, random_streams(cfg, rng, 3, 1))
    stream = cfg.audio_stream()
    sounds = [] if stream is None else [random_sounds(stream, rng, batch) for batch in (1, 3, 2)]
    cases = _by_graph("random", videos, texts, visual, sounds, _audio_tokens(specs, stream, sounds))
    if any(ANSWER_IDS in spec.inputs for spec in specs):
        cases["answer"] = [
            _with_answers(case, cfg, rng, *size) for case, size in zip(cases["answer"], _ANSWER_SIZES, strict=True)
        ]
    return cases | _caption_cases(specs, cases["match"])


def _with_answers(case: Case, cfg: Sizes, rng: np.random.Generator, answers: int, length: int) -> Case:
    batch = len(case.inputs["input_ids"])
    return Case(case.kind, case.inputs | random_answers(cfg, rng, batch, answers, length))


def model_cases(
    model: FusedModel, tokenizer: Tokenizer, corpora: Iterable[Packed], seed: int, count: int = 6
) -> dict[str, list[Case]]:
    """Return random inputs, followed by real ones, by graph. Arguments as in `random_cases` and `real_cases`."""
    random = random_cases(graph_specs(model), model.cfg, seed)
    real = real_cases(model, tokenizer, corpora, count)
    return {graph: [*cases, *real.get(graph, [])] for graph, cases in random.items()}


def real_cases(
    model: FusedModel, tokenizer: Tokenizer, corpora: Iterable[Packed], count: int = 6
) -> dict[str, list[Case]]:
    """Return inputs from the first examples of each corpus: frames (also as two clips each), sounds and texts.

    Texts are captions and questions; for `entailment` only captions, because it does not classify questions.
    """
    specs, cfg = graph_specs(model), model.cfg
    videos, texts, statements, visual, sounds = [], [], [], [], []
    for packed in corpora:
        rows = np.arange(min(count, len(packed.examples)))
        if packed.audio is not None and cfg.audio is not None:
            audio = read_audio(packed, rows, cfg.audio.seconds)
            sounds.append({SAMPLES: audio.samples.numpy(), LENGTHS: audio.lengths.numpy()})
        sentences = [text for row in rows for text in example_texts(packed, int(row))][:count]
        captions = [text for row in rows for text in packed.examples[row].captions[:1]]
        if sentences:
            texts.append(_tokens(tokenizer, sentences))
        if captions:
            statements.append(_tokens(tokenizer, captions))
        if packed.sound_alone:
            visual.append(np.zeros((len(sentences), cfg.visual_tokens, cfg.visual_width), np.float32))
            continue
        streams = streams_of(packed, rows, cfg.streams())
        videos.append(streams)
        if len(rows) >= 2 and packed.clips == 1:
            videos.append({name: _two_clips(array) for name, array in streams.items()})
        if sentences:
            visual.append(_visual_tokens(specs, streams))
    tokens = np.concatenate(visual) if visual else np.zeros((0, 0, 0), np.float32)
    audio_tokens = _audio_tokens(specs, cfg.audio_stream(), sounds)
    cases = _by_graph("real", videos, texts, tokens, sounds, audio_tokens)
    cases["entailment"] = _fused_cases("real", statements, tokens, audio_tokens)
    return cases | _caption_cases(specs, cases["match"])


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Arrays:
    ids, mask = tokenizer.encode(texts)
    return {"input_ids": ids, "attention_mask": mask}


def example_texts(packed: Packed, row: int) -> list[str]:
    """Return the first caption and the first question of an example."""
    example = packed.examples[row]
    return [*example.captions[:1], *(question.question for question in example.questions[:1])]


def _by_graph(
    kind: InputKind,
    videos: Sequence[Arrays],
    texts: Sequence[Arrays],
    visual: np.ndarray,
    sounds: Sequence[Arrays],
    audio: np.ndarray | None,
) -> dict[str, list[Case]]:
    """Return the cases of each graph. visual, audio: As in `_fused_cases`."""
    fused = _fused_cases(kind, texts, visual, audio)
    return {
        "video": [Case(kind, streams) for streams in videos],
        "audio": [Case(kind, sound) for sound in sounds],
        "text": [Case(kind, text) for text in texts],
        "match": fused,
        "answer": fused,
        "grounding": [Case(kind, {n: x for n, x in case.inputs.items() if n != AUDIO_TOKENS}) for case in fused],
        "entailment": fused,
    }


def _fused_cases(kind: InputKind, texts: Sequence[Arrays], visual: np.ndarray, audio: np.ndarray | None) -> list[Case]:
    """Return cases of texts with visual tokens (n, V, K) and audio tokens (n, T, A), which repeat in turn.

    audio: None for a model without sound in the fused layers.
    """
    cases = []
    for text in texts:
        rows = np.arange(len(text["input_ids"]))
        inputs = text | {"visual_tokens": visual[rows % max(len(visual), 1)]}
        if audio is not None:
            inputs[AUDIO_TOKENS] = audio[rows % max(len(audio), 1)]
        cases.append(Case(kind, inputs))
    return cases


def _caption_cases(specs: Sequence[GraphSpec], fused: Sequence[Case]) -> dict[str, list[Case]]:
    """Return cases of the caption graphs, if a model has them: the first half of each text, then the second half.

    Texts of a batch are cut to the length of the shortest, because the graphs do not support padding.
    """
    cases: dict[str, list[Case]] = {spec.name: [] for spec in specs if spec.name in CAPTION_GRAPHS}
    for case in fused if cases else ():
        length = int(case.inputs["attention_mask"].sum(axis=1).min())
        ids = case.inputs["input_ids"][:, :length]
        tokens, second = caption_inputs(specs, case.inputs, ids, length // 2)
        _, first = caption_inputs(specs, case.inputs, ids[:, : length // 2], 0)
        cases["caption_prefill"].append(Case(case.kind, tokens))
        cases["caption_step"] += [Case(case.kind, first), Case(case.kind, second)]
    return cases


def _audio_tokens(
    specs: Sequence[GraphSpec], stream: AudioStream | None, sounds: Sequence[Arrays]
) -> np.ndarray | None:
    """Return the audio tokens (n, T, A) of sounds; None if the fused layers do not read sound.

    A row of zeros, for a clip without sound, is inserted as the second row.
    """
    if stream is None or not stream.fused:
        return None
    (audio,) = [spec for spec in specs if spec.name == "audio"]
    silent = np.zeros((1, stream.tokens, stream.width), np.float32)
    tokens = np.concatenate([silent[:0], *(run_torch(audio, sound)[AUDIO_TOKENS] for sound in sounds)])
    return np.concatenate([tokens[:1], silent, tokens[1:]])


def _visual_tokens(specs: Sequence[GraphSpec], streams: Arrays) -> np.ndarray:
    for spec in specs:
        if spec.name == "video":
            return run_torch(spec, streams)["visual_tokens"]
    return np.zeros((1, 0, 0), np.float32)


def _two_clips(array: np.ndarray) -> np.ndarray:
    """Combine pairs of adjacent examples as clips of one video: (n, 1, F, H, W, 3) -> (n // 2, 2, F, H, W, 3)."""
    half = len(array) // 2
    return np.ascontiguousarray(array[: 2 * half].reshape(half, 2, *array.shape[2:]))
