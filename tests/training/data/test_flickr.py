"""Readers of Flickr8k and Flickr30k."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.corpus_files import picture, write_shard
from training.data.corpus import CorpusError
from training.data.flickr import Judgement, expert_judgements, flickr8k, flickr30k

KEYS_8K = {"train": "1000268201_693b08cb0e", "val": "1001773457_577c3a7d70", "test": "1056338697_4f7d7ce270"}
LISTS = {"train": "trainImages", "val": "devImages", "test": "testImages"}


def official(folder: Path, images: str = "Flicker8k_Dataset") -> Path:
    """The layout that the authors distribute."""
    (folder / images).mkdir()
    tokens = []
    for split, key in KEYS_8K.items():
        (folder / images / f"{key}.jpg").write_bytes(picture())
        (folder / f"Flickr_8k.{LISTS[split]}.txt").write_text(f"{key}.jpg\n")
        tokens += [f"{key}.jpg#{n}\tSentence {n} of {split} ." for n in range(5)]
    # One line of the official file names its image with a stray suffix.
    tokens.append("2258277193_586949ec62.jpg.1#0\tpeople waiting for the subway")
    (folder / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    return folder


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("images", ["Images", "Flicker8k_Dataset"])
def test_the_official_layout_keeps_the_official_split(tmp_path: Path, split: str, images: str) -> None:
    ((example, media),) = flickr8k(official(tmp_path, images), split)
    assert example.key == KEYS_8K[split]
    assert example.captions == tuple(f"Sentence {n} of {split} ." for n in range(5))
    assert example.still
    assert media == tmp_path / images / f"{KEYS_8K[split]}.jpg"


def test_shards_give_the_same_examples_as_the_official_layout(tmp_path: Path) -> None:
    (tmp_path / "official").mkdir()
    ((expected, _),) = flickr8k(official(tmp_path / "official"), "val")
    record = {"captions": list(expected.captions)}
    write_shard(tmp_path / "shards" / "val-00000.tar", {expected.key: (picture(), record)})
    ((example, _),) = flickr8k(tmp_path / "shards", "val")
    assert example == expected


def test_all_shards_of_a_split_are_read(tmp_path: Path) -> None:
    for number, key in enumerate("abc"):
        write_shard(tmp_path / f"train-0000{number}.tar", {key: (picture(), {"captions": [f"caption {key}"]})})
    assert [example.key for example, _ in flickr8k(tmp_path, "train")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "Flickr8k.token.txt",
            "a.jpg#0\tfine\na.jpg#1 no tab\n",
            r"token\.txt:2: sentence: none in 'a.jpg#1 no tab'",
        ),
        ("Flickr8k.token.txt", "a.jpg\tno number\n", r"token\.txt:1: image: 'a.jpg'"),
        ("Flickr_8k.devImages.txt", "b.jpg\n", r"devImages\.txt:1: image 'b.jpg' has no sentence"),
        ("Flickr_8k.devImages.txt", None, r"devImages\.txt: missing"),
    ],
)
def test_a_malformed_annotation_names_file_line_and_field(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    official(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(flickr8k(tmp_path, "val"))


def test_a_listed_image_that_is_missing_is_named(tmp_path: Path) -> None:
    (official(tmp_path) / "Flicker8k_Dataset" / f"{KEYS_8K['test']}.jpg").unlink()
    with pytest.raises(CorpusError, match=rf"testImages\.txt:1: image .*{KEYS_8K['test']}\.jpg is missing"):
        list(flickr8k(tmp_path, "test"))


def test_a_shard_without_sentences_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-00000.tar", {"a": (picture(), {"caption": ["typing mistake"]})})
    with pytest.raises(CorpusError, match=r"val-00000\.tar: a\.json: captions: none"):
        list(flickr8k(tmp_path, "val"))


def test_a_folder_of_neither_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"neither train-\*\.tar nor Flickr8k\.token\.txt"):
        list(flickr8k(tmp_path, "train"))


def test_experts_are_read_alike_from_both_formats(tmp_path: Path) -> None:
    for name in ("official", "table"):
        (tmp_path / name).mkdir()
    key, other = KEYS_8K["test"], KEYS_8K["train"]
    official(tmp_path / "official")
    (tmp_path / "official" / "ExpertAnnotations.txt").write_text(
        f"{key}.jpg\t{other}.jpg#2\t1\t1\t2\n{key}.jpg\t{key}.jpg#0\t4\t3\t4\n"
    )
    (tmp_path / "table" / "expert_judgements.tsv").write_text(
        "image\tcaption_id\tcaption\tjudgement_1\tjudgement_2\tjudgement_3\n"
        f"{key}\t{other}#2\tSentence 2 of train .\t1\t1\t2\n{key}\t{key}#0\tSentence 0 of test .\t4\t3\t4\n"
    )
    judgements = expert_judgements(tmp_path / "official")
    assert judgements == expert_judgements(tmp_path / "table")
    assert judgements[0] == Judgement(key, f"{other}#2", "Sentence 2 of train .", (1, 1, 2))
    assert [judgement.is_own_caption for judgement in judgements] == [False, True]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\tb#0\tA dog .\t1\t2", r"tsv:1: 5 fields"),
        ("a\tb#0\tA dog .\t1\t2\t5", r"tsv:1: judgement 3: '5'; 1, 2, 3 or 4"),
    ],
)
def test_a_malformed_judgement_names_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "expert_judgements.tsv").write_text(line + "\n")
    with pytest.raises(CorpusError, match=message):
        expert_judgements(tmp_path)


KEYS_30K = {"train": "1000092795", "val": "1018148011", "test": "1007129816"}
HEADER = "image_name| comment_number| comment\n"


def distributed(folder: Path, images: str = "flickr30k-images", *, sentences: str = "token") -> Path:
    """One image per split, two sentences each, in one of the two formats, or in the file of the split alone."""
    (folder / images).mkdir()
    for key in KEYS_30K.values():
        (folder / images / f"{key}.jpg").write_bytes(picture())
    output = [(key, n, f"Sentence {n} of {split} .") for split, key in KEYS_30K.items() for n in range(2)]
    if sentences == "token":
        lines = [f"{key}.jpg#{n}\t{text}\n" for key, n, text in output]
        (folder / "results_20130124.token").write_text("".join(lines))
    elif sentences == "table":
        (folder / "results.csv").write_text(HEADER + "".join(f"{key}.jpg| {n}| {text}\n" for key, n, text in output))
    listed(folder)
    return folder


def listed(folder: Path, **changes: Any) -> None:
    """dataset_flickr30k.json, with changes to the image of the validation split."""
    images = [
        {
            "sentids": [0, 1],
            "imgid": 0,
            "sentences": [
                {"tokens": [], "raw": f"Sentence {n} of {split} .", "imgid": 0, "sentid": n} for n in range(2)
            ],
            "split": split,
            "filename": f"{key}.jpg",
            **(changes if split == "val" else {}),
        }
        for split, key in KEYS_30K.items()
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("images", ["flickr30k-images", "flickr30k_images"])
@pytest.mark.parametrize("sentences", ["token", "table", "none"])
def test_every_format_of_the_sentences_gives_the_split_of_karpathy(
    tmp_path: Path, split: str, images: str, sentences: str
) -> None:
    ((example, media),) = flickr30k(distributed(tmp_path, images, sentences=sentences), split)
    assert example.key == KEYS_30K[split]
    assert example.captions == (f"Sentence 0 of {split} .", f"Sentence 1 of {split} .")
    assert example.still
    assert media == tmp_path / images / f"{KEYS_30K[split]}.jpg"


def test_a_row_of_the_table_without_its_second_bar_is_read(tmp_path: Path) -> None:
    distributed(tmp_path, sentences="table")
    rows = f"{KEYS_30K['val']}.jpg| 0| 3 dogs | and a cat .\n{KEYS_30K['val']}.jpg| 4   A dog runs across the grass .\n"
    (tmp_path / "results.csv").write_text(HEADER + rows)
    ((example, _),) = flickr30k(tmp_path, "val")
    assert example.captions == ("3 dogs | and a cat .", "A dog runs across the grass .")


def test_the_file_of_the_split_is_needed(tmp_path: Path) -> None:
    (distributed(tmp_path) / "dataset_flickr30k.json").unlink()
    with pytest.raises(CorpusError, match=r"dataset_flickr30k\.json: missing; .* this file is needed"):
        list(flickr30k(tmp_path, "test"))


@pytest.mark.parametrize(
    ("sentences", "content", "message"),
    [
        ("results_20130124.token", "1.jpg#0\tfine\n1.jpg#1 no tab\n", r"token:2: sentence: none in '1\.jpg#1 no tab'"),
        ("results_20130124.token", "1.jpg\tno number\n", r"token:1: image: '1\.jpg'"),
        (
            "results_20130124.token",
            "1.jpg#0\ta\n1.jpg#0\ta\n1.jpg#0\tb\n",
            r"token:3: image: '1#0' has another",
        ),
        (
            "results.csv",
            HEADER + "1.jpg| 0| a\n1.jpg| 0| b\n",
            r"csv:3: image: '1#0' has another sentence",
        ),
        ("results.csv", HEADER + "1.jpg| 0|  \n", r"results\.csv:2: comment: none in '1\.jpg\| 0\|  '"),
        ("results.csv", HEADER + "1.jpg| A dog .\n", r"results\.csv:2: comment: none in '1\.jpg\| A dog \.'"),
        (
            "results.csv",
            HEADER + "1.jpg| 0| A dog .\n",
            rf"flickr30k\.json: images\[1\]\.filename: '{KEYS_30K['val']}\.jpg' has no sentence in results\.csv",
        ),
    ],
)
def test_a_malformed_sentence_names_file_line_and_field(
    tmp_path: Path, sentences: str, content: str, message: str
) -> None:
    (distributed(tmp_path, sentences="none") / sentences).write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(flickr30k(tmp_path, "val"))


def test_a_malformed_split_names_file_index_and_field(tmp_path: Path) -> None:
    distributed(tmp_path)
    listed(tmp_path, split="validation")
    with pytest.raises(CorpusError, match=r"flickr30k\.json: images\[1\]\.split: 'validation'; one of"):
        list(flickr30k(tmp_path, "train"))


def test_a_folder_that_is_not_flickr30k_is_refused(tmp_path: Path) -> None:
    listed(tmp_path)
    with pytest.raises(CorpusError, match=r"no folder of pictures; one of \('flickr30k-images', 'flickr30k_images'\)"):
        list(flickr30k(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"split: 'dev'; one of"):
        list(flickr30k(tmp_path, "dev"))
