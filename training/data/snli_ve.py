"""SNLI-VE: sentences that a photograph of Flickr30k entails, contradicts, or is neutral about.

Xie, Lai, Doran, Kadav: Visual entailment: a novel task for fine-grained image understanding, 2019. The sentences are
hypotheses of SNLI (CC-BY-SA 4.0), whose premises were captions of the photographs. The split is the official one.

Layout:
    snli_ve_{train,dev,test}.jsonl           one object per line: {"Flickr30K_ID", "gold_label", "sentence2", ...}
    flickr30k-images/ or flickr30k_images/   the pictures, FLICKR30K_ID.jpg

`gold_label` is entailment, neutral or contradiction; lines with "-", on which annotators did not agree, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.corpus import check_split, media_path, present_folders, read_json_lines, text_of, unexpected
from training.data.example import EntailmentLabel, Example, Hypothesis
from training.data.flickr import FLICKR30K_FOLDERS
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="SNLI-VE (Xie, Lai, Doran, Kadav, 2019) on Flickr30k (Young, Lai, Hodosh, Hockenmaier, TACL 2014)",
    licence="sentences: CC-BY-SA 4.0; the photographs are for research and education and belong to their authors",
    split_rule="official: train, dev (validation), test",
)
FILES = {"train": "snli_ve_train.jsonl", "val": "snli_ve_dev.jsonl", "test": "snli_ve_test.jsonl"}
LABELS: dict[str, EntailmentLabel] = {
    "entailment": "entailed",
    "neutral": "neutral",
    "contradiction": "contradicted",
}
NO_CONSENSUS = "-"


def snli_ve(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every picture of a split with its sentences. Packing lists missing pictures as skipped.

    Raises CorpusError naming file, line and field.
    """
    check_split(split)
    pictures = present_folders(folder, FLICKR30K_FOLDERS, "pictures")
    by_picture: dict[str, list[Hypothesis]] = {}
    for record in read_json_lines(folder / FILES[split]):
        key = text_of(record, "Flickr30K_ID", "the name of a picture without .jpg")
        sentence = text_of(record, "sentence2", "a sentence")
        label = record.fields.get("gold_label")
        if label == NO_CONSENSUS:
            continue
        if not isinstance(label, str) or label not in LABELS:
            raise unexpected(record, "gold_label", f"one of {[*LABELS, NO_CONSENSUS]}")
        by_picture.setdefault(key, []).append(Hypothesis(sentence, LABELS[label]))
    for key, hypotheses in by_picture.items():
        yield Example(key, still=True, hypotheses=tuple(hypotheses)), media_path(pictures, key, (".jpg",))
