"""The evaluation report of a bundle or checkpoint, by corpus.

`vitascope evaluate BUNDLE --data DIR --judgements DIR` gives the numbers of `docs/results.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from training import checkpoint
from training.data.corpus import SPLITS
from training.data.frame_batch import clip_count
from training.data.packed import PACK_NAME
from training.evaluation.encoder import Encoder
from training.evaluation.protocols import (
    PROTOCOLS,
    EvalTarget,
    Numbers,
    measure_captions,
    measure_corpus,
    measure_entailment,
    unmeasurable_reason,
)
from training.evaluation.retrieval import RERANK_QUERIES
from training.evaluation.torch_encoder import TorchEncoder
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.captions import CaptionOptions
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

Log = Callable[[str], None]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def evaluate(
    model: Path,
    data: Path,
    split: str = "test",
    corpora: Sequence[str] | None = None,
    judgements: Path | None = None,
    out: Path | None = None,
    clips: int | None = None,
    rerank: int | None = None,
    captions: CaptionOptions | None = None,
    entailment: bool = False,
    rerank_queries: int = RERANK_QUERIES,
    log: Log = _to_stderr,
) -> dict[str, Numbers]:
    """Measure a model on packed corpora.

    Args:
        model: Bundle, checkpoint or run folder.
        data: Folder of packed corpora.
        split: Split to measure.
        corpora: Names of corpora; None: all that have this split and something to measure.
        judgements: Folder of the Flickr8k expert judgements.
        out: JSON file for the results.
        clips: Number of clips used per video, evenly spread over the packed clips; None: all.
        rerank: As in `EvalTarget`.
        captions: As in `EvalTarget`.
        entailment: Measure only entailment.
        rerank_queries: As in `EvalTarget`.
        log: Called with a line of text for each corpus that is skipped or measured in an unusual way.

    Returns:
        {corpus: {metric: value}}; percentages unless a name says otherwise.

    Raises:
        InvalidInput, TaskMissing: A named corpus is missing or has nothing to measure, its frames do not fit the model,
            or the model does not have the task. Raised before anything is measured.
    """
    if rerank is not None and rerank < 1:
        raise InvalidInput(f"rerank: {rerank}; at least 1 was expected")
    if rerank_queries < 0:
        raise InvalidInput(f"rerank_queries: {rerank_queries}; at least 0 was expected")
    if out is not None:
        check_json_target(out)
    names = list(dict.fromkeys(corpora)) if corpora else None
    names_requested = _select_corpora(data, split, names)
    encoder = open_encoder(model)
    target = EvalTarget(encoder, data, split, judgements, clips, rerank, captions, entailment, rerank_queries)
    if captions:
        captions.check_tasks(encoder.tasks)
        if "captioning" not in encoder.tasks:
            raise InvalidInput(f"captions: {model} generates none; a model with the task captioning was expected")
    if entailment and not _classifies(encoder):
        raise InvalidInput(f"entailment: {model} classifies no sentences; a model that does was expected")
    chosen = _select_protocols(target, names_requested, named=names is not None, log=log)
    results = {name: {k: round(v, 4) for k, v in numbers().items()} for name, numbers in chosen.items()}
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n")
    return results


def check_json_target(out: Path) -> None:
    """Create the folder of a file for metrics, before they are measured. Raises InvalidInput if ``out`` is a folder."""
    if out.is_dir():
        raise InvalidInput(f"out: {out} is a folder; a JSON file was expected")
    out.parent.mkdir(parents=True, exist_ok=True)


def _classifies(encoder: Encoder) -> bool:
    """Return whether a model has an entailment head."""
    if isinstance(encoder, TorchEncoder):
        return encoder.model.cfg.entailment is not None
    return "entailment" in encoder.tasks


def open_encoder(model: Path) -> Encoder:
    """Open a bundle's runtime model, or the torch model of a checkpoint or run folder."""
    if (model / MANIFEST_NAME).exists():
        return Model.open(model)
    loaded = checkpoint.load_run(model)
    tokenizer = Tokenizer.open(loaded.tokenizer, max_length=loaded.model.cfg.text_length)
    return TorchEncoder(loaded.model, tokenizer, loaded.answers)


def _select_corpora(data: Path, split: str, names: Sequence[str] | None) -> list[str]:
    """Return the requested corpora. None: all, first those of `PROTOCOLS`, then the others by name."""
    packed = sorted(p.parent.parent.name for p in data.glob(f"*/{split}/{PACK_NAME}"))
    if not packed:
        raise InvalidInput(f"data: no corpus in {data} has a split {split!r}; `vitascope prepare` packs some")
    if names is None:
        return [name for name in PROTOCOLS if name in packed] + [name for name in packed if name not in PROTOCOLS]
    for name in names:
        if name not in packed:
            others = ", ".join(s for s in SPLITS if name and (data / name / s / PACK_NAME).is_file())
            has = f" (only {others})" if others else ""
            raise InvalidInput(f"corpus: {name!r}: no split {split!r} in {data}{has}; of {packed} there is one")
    return list(names)


def _select_protocols(
    target: EvalTarget, names_requested: Sequence[str], *, named: bool, log: Log
) -> dict[str, Callable[[], Numbers]]:
    """Return the protocol of each corpus that has something to measure.

    named: Raise InvalidInput for a corpus without anything to measure, instead of skipping it.
    """
    chosen: dict[str, Callable[[], Numbers]] = {}
    for name in names_requested:
        packed = target.packed(name)
        special = target.captions is not None or target.entailment
        is_known = name in PROTOCOLS and not packed.sound_alone and not special
        if not is_known and (reason := unmeasurable_reason(target, packed)):
            if named:
                raise InvalidInput(f"corpus: {name!r}: {reason}; something to measure was expected")
            log(f"{name}: left out: {reason}")
            continue
        clip_count(packed, target.clips)
        unlike = "; ".join(packed.stream_mismatches(target.encoder.streams))
        if unlike and not packed.sound_alone:
            log(f"{name}: measured at other frames than the model is made for: {unlike}")
        if packed.stride:
            log(f"{name}: packed at a stride of {packed.stride:g} s; a service spreads frames evenly over the clip")
        if target.captions:
            chosen[name] = partial(measure_captions, target, packed, target.captions)
        elif target.entailment:
            chosen[name] = partial(measure_entailment, target, packed)
        elif known := PROTOCOLS.get(name):
            chosen[name] = partial(known, target)
        else:
            chosen[name] = partial(measure_corpus, target, packed)
    if not chosen:
        raise InvalidInput(f"data: {target.data}: no corpus has anything to measure in its split {target.split!r}")
    return chosen
