"""Metrics of captions that a model generates, compared with the captions of the corpus.

Shape letters: N examples, D embedding dim, V visual tokens, K their width, T audio tokens, A their width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.data.packed import Packed
from training.data.scenes.description import Description, Mention, holds
from training.data.scenes.parsing import parse
from training.data.scenes.world import World, world_of
from training.evaluation.encoder import Encoder, embed_texts
from training.evaluation.retrieval import Gallery, queries_of
from training.evaluation.torch_encoder import TorchEncoder
from vitascope.captions import CaptionOptions
from vitascope.model import Model

SCENE_METRICS = ("right objects", "right objects and colours", "right objects, colours and motions", "whole scenes")


def caption_metrics(
    encoder: Encoder,
    packed: Packed,
    videos: Gallery,
    visual: np.ndarray,
    audio: np.ndarray | None,
    options: CaptionOptions,
) -> dict[str, float]:
    """Return the quality of the captions that a model generates.

    BLEU-4, ROUGE-L and CIDEr-D compare with all captions of an example. `similarity (generated)` is the mean cosine of
    generated captions and examples in percent, `similarity (written)` that of the corpus's captions. Synthetic scenes
    also have `scene_metrics`; in the test split these are also computed for `held-out combinations`.

    Args:
        encoder: The model.
        packed: The corpus.
        videos: Embeddings of the N examples.
        visual: Visual tokens (N, V, K).
        audio: Audio tokens (N, T, A); None: sound is not used.
        options: Options of decoding.
    """
    assert isinstance(encoder, Model | TorchEncoder)
    rows = [row for row, example in enumerate(packed.examples) if queries_of(example)]
    written = [queries_of(packed.examples[row]) for row in rows]
    described_audio = None if audio is None else audio[rows]
    generated = [best.text for best, *_ in encoder.generate_captions(visual[rows], described_audio, options)]
    owners = [row for row, own in zip(rows, written, strict=True) for _ in own]
    texts = [caption for own in written for caption in own]
    out = {"generated captions": float(len(rows))} | ngram_metrics(generated, written)
    out["similarity (generated)"] = float(100 * videos.pairs(embed_texts(encoder, generated), rows).mean())
    out["similarity (written)"] = float(100 * videos.pairs(embed_texts(encoder, texts), owners).mean())
    scenes = [packed.examples[row].attributes.get("scene") for row in rows]
    if audio is None and all(scenes):
        worlds = [world_of(scene) for scene in scenes if scene]
        out |= scene_metrics(generated, worlds)
        held_out = [i for i, world in enumerate(worlds) if world.held_out]
        if held_out:
            of_held_out = scene_metrics([generated[i] for i in held_out], [worlds[i] for i in held_out])
            out |= {f"{name} (held-out combinations)": value for name, value in of_held_out.items()}
    return out


def words_of(text: str) -> str:
    """Return the words of a text, in lower case and without punctuation, separated by spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def ngram_metrics(generated: Sequence[str], written: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the metrics of the COCO captions task that need no Java, times 100.

    BLEU-4 of the corpus (Papineni et al., ACL 2002), ROUGE-L (Lin, 2004) and CIDEr-D (Vedantam et al., CVPR 2015).
    Words are split by `words_of`; published numbers use the Penn Treebank tokenizer and differ slightly.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates = {i: [words_of(text)] for i, text in enumerate(generated)}
    references = {i: [words_of(text) for text in texts] for i, texts in enumerate(written)}
    bleu, _ = Bleu(4).compute_score(references, candidates, verbose=0)
    rouge, _ = Rouge().compute_score(references, candidates)
    cider, _ = Cider().compute_score(references, candidates)
    return {"BLEU-4": 100 * float(bleu[3]), "ROUGE-L": 100 * float(rouge), "CIDEr-D": 100 * float(cider)}


def scene_metrics(captions: Sequence[str], worlds: Sequence[World]) -> dict[str, float]:
    """Return the percentage of captions of scenes whose statements about objects, colours and motions are all true.

    `whole scenes`: captions that also name the colour and the shape of every object, and every motion.
    """
    right = np.array([correct_parts(text, world) for text, world in zip(captions, worlds, strict=True)])
    return dict(zip(SCENE_METRICS, (100 * right.mean(axis=0)).tolist(), strict=True))


def correct_parts(text: str, world: World) -> tuple[bool, bool, bool, bool]:
    """Return whether a caption fulfils each of `SCENE_METRICS`. Each metric requires the ones before it."""
    caption = parse(text)
    shapes = Description(tuple(Mention(shape=m.shape) for m in caption.mentions), ())
    colours = Description(tuple(Mention(m.colour, m.shape) for m in caption.mentions), ())
    motions = replace(colours, clauses=tuple(replace(clause, speed=None) for clause in caption.clauses))
    right = [bool(caption.mentions) and holds(part, world) for part in (shapes, colours, motions)]
    right[2] = right[2] and len(set(motions.clauses)) == len(motions.clauses)  # no motion occurs twice
    events = 1 if world.kind == "collision" else sum(len(thing.events) for thing in world.things)
    is_whole = len(caption.mentions) == len(world.things) and all(m.colour and m.shape for m in caption.mentions)
    is_whole = is_whole and sum(clause.motion != "stays" for clause in caption.clauses) == events
    return right[0], right[1], right[2], right[2] and is_whole
