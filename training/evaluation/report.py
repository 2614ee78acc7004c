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
from training.data.clip_choice import clips_taken
from training.data.hash_split import SPLITS
from training.data.packed import PACK_NAME
from training.evaluation.any_corpus import measure, not_measured
from training.evaluation.encoder import Encoder, TorchEncoder
from training.evaluation.known_corpora import MEASURES
from training.evaluation.target import Numbers, Subject
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

Say = Callable[[str], None]


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
    say: Say = _to_stderr,
) -> dict[str, Numbers]:
    """Measure `model` (bundle or checkpoint folder) on packed corpora in `data`.

    corpora: None for all that have this split and something to measure. clips: of each video, spread evenly over those
    that are packed (None: all). say: takes a line about each corpus that is left out.
    Returns {corpus: {metric: value}}; percentages unless a name says otherwise. Raises InvalidInput, before anything is
    measured, where a corpus is not there, has nothing to measure, or is packed otherwise than the model sees.
    """
    names = list(dict.fromkeys(corpora)) if corpora else None
    names_requested = _there(data, split, names)
    subject = Subject(open_encoder(model), data, split, judgements, clips)
    chosen = _chosen(subject, names_requested, named=names is not None, say=say)
    results = {name: {k: round(v, 4) for k, v in numbers().items()} for name, numbers in chosen.items()}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    return results


def open_encoder(model: Path) -> Encoder:
    """Open a bundle's runtime model or a checkpoint's torch model."""
    if (model / MANIFEST_NAME).exists():
        return Model.open(model)
    loaded = checkpoint.load(model)
    tokenizer = Tokenizer.open(loaded.tokenizer, max_length=loaded.model.cfg.text_length)
    return TorchEncoder(loaded.model, tokenizer, loaded.answers)


def _there(data: Path, split: str, names: Sequence[str] | None) -> list[str]:
    """Return the requested corpora, or all: known ones first, then the others by name."""
    packed = sorted(p.parent.parent.name for p in data.glob(f"*/{split}/{PACK_NAME}"))
    if not packed:
        raise InvalidInput(f"data: no corpus in {data} has a split {split!r}; `vitascope prepare` packs some")
    if names is None:
        return [name for name in MEASURES if name in packed] + [name for name in packed if name not in MEASURES]
    for name in names:
        if name not in packed:
            others = ", ".join(s for s in SPLITS if name and (data / name / s / PACK_NAME).is_file())
            has = f" (only {others})" if others else ""
            raise InvalidInput(f"corpus: {name!r}: no split {split!r} in {data}{has}; of {packed} there is one")
    return list(names)


def _chosen(
    subject: Subject, names_requested: Sequence[str], *, named: bool, say: Say
) -> dict[str, Callable[[], Numbers]]:
    """Return the protocol of each corpus with something to measure; a named corpus without is an error."""
    chosen: dict[str, Callable[[], Numbers]] = {}
    for name in names_requested:
        packed = subject.packed(name)
        if name not in MEASURES and (reason := not_measured(subject, packed)):
            if named:
                raise InvalidInput(f"corpus: {name!r}: {reason}; something to measure was expected")
            say(f"{name}: left out: {reason}")
            continue
        clips_taken(packed, subject.clips)
        if unlike := "; ".join(packed.stream_mismatches(subject.encoder.streams)):
            say(f"{name}: measured at other frames than the model is made for: {unlike}")
        known = MEASURES.get(name)
        chosen[name] = partial(known, subject) if known else partial(measure, subject, packed)
    if not chosen:
        raise InvalidInput(f"data: {subject.data}: no corpus has anything to measure in its split {subject.split!r}")
    return chosen
