"""NLVR2: sentences about pairs of photographs, each true or false.

Suhr, Zhou, Zhang, Zhang, Bai, Artzi: A corpus for reasoning about natural language grounded in photographs, ACL 2019.
Annotations: CC-BY 4.0; the photographs belong to their authors. The split is the official one: train, dev (validation)
and test1, the public test split (test-P).

Layout:
    train.json  dev.json  test1.json    one object per line: {"identifier", "sentence", "label", "directory" (train)}
    images/train/DIRECTORY/             the pictures of dev-850-0-3 are dev-850-0-img0.png (left) and
    images/dev/  images/test1/          dev-850-0-img1.png (right); folders may also lie outside images/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.corpus import check_split, media_path, present_folders, read_json_lines, text_of, unexpected
from training.data.example import EntailmentLabel, Example, Hypothesis
from training.data.packed import Media, Origin, PicturePair

ORIGIN = Origin(
    source="NLVR2 (Suhr, Zhou, Zhang, Zhang, Bai, Artzi, ACL 2019)",
    licence="annotations: CC-BY 4.0; the photographs belong to their authors",
    split_rule="official: train, dev (validation), test1 (test)",
)
PARTS = {"train": "train", "val": "dev", "test": "test1"}
LABELS: dict[object, EntailmentLabel] = {"True": "true", "False": "false"}


def nlvr2(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every sentence of a split with its two pictures. Packing lists missing pictures as skipped.

    Raises CorpusError naming file, line and field.
    """
    check_split(split)
    part = PARTS[split]
    folders = present_folders(folder, (f"images/{part}", part), "pictures")
    for record in read_json_lines(folder / f"{part}.json"):
        identifier = text_of(record, "identifier", "SPLIT-SET-PAIR-SENTENCE")
        pair, _, number = identifier.rpartition("-")
        if len(identifier.split("-")) != 4 or not number:
            raise unexpected(record, "identifier", "SPLIT-SET-PAIR-SENTENCE")
        label = record.fields.get("label")
        if str(label) not in LABELS:
            raise unexpected(record, "label", "'True' or 'False'")
        sentence = Hypothesis(text_of(record, "sentence", "a sentence"), LABELS[str(label)])
        directory = record.fields.get("directory")
        within = folders if directory is None else [path / str(directory) for path in folders]
        first, second = (media_path(within, f"{pair}-img{i}", (".png",)) for i in (0, 1))
        yield Example(identifier, still=True, hypotheses=(sentence,)), PicturePair(first, second)


def consistency(identifiers: Sequence[str], right: Sequence[bool]) -> float:
    """Return the percentage of sentences that are classified correctly for all their pairs of pictures.

    identifiers: Identifiers of the classified examples; for one sentence they differ only in the number of the pair.
    right: Whether each example was classified correctly.
    """
    by_sentence: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for identifier, is_right in zip(identifiers, right, strict=True):
        split, of_set, _, number = identifier.split("-")
        by_sentence[split, of_set, number].append(is_right)
    return 100.0 * sum(map(all, by_sentence.values())) / len(by_sentence)
