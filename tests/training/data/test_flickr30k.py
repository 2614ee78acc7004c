from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.corpus_files import GREEN, picture
from training.data.errors import CorpusError
from training.data.flickr30k import ORIGIN, flickr30k
from training.data.packed import STILL_STREAMS, open_packed, write_packed

KEYS = {"train": "1000092795", "val": "1018148011", "test": "1007129816"}
HEADER = "image_name| comment_number| comment\n"


def distributed(folder: Path, images: str = "flickr30k-images", *, sentences: str = "token") -> Path:
    """One image per split, two sentences each, in one of the two formats, or in the file of the split alone."""
    (folder / images).mkdir()
    for key in KEYS.values():
        (folder / images / f"{key}.jpg").write_bytes(picture())
    said = [(key, n, f"Sentence {n} of {split} .") for split, key in KEYS.items() for n in range(2)]
    if sentences == "token":
        lines = [f"{key}.jpg#{n}\t{text}\n" for key, n, text in said]
        (folder / "results_20130124.token").write_text("".join(lines))
    elif sentences == "table":
        (folder / "results.csv").write_text(HEADER + "".join(f"{key}.jpg| {n}| {text}\n" for key, n, text in said))
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
        for split, key in KEYS.items()
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("images", ["flickr30k-images", "flickr30k_images"])
@pytest.mark.parametrize("sentences", ["token", "table", "none"])
def test_every_format_of_the_sentences_gives_the_split_of_karpathy(
    tmp_path: Path, split: str, images: str, sentences: str
) -> None:
    ((example, media),) = flickr30k(distributed(tmp_path, images, sentences=sentences), split)
    assert example.key == KEYS[split]
    assert example.captions == (f"Sentence 0 of {split} .", f"Sentence 1 of {split} .")
    assert example.still
    assert media == tmp_path / images / f"{KEYS[split]}.jpg"


def test_a_row_of_the_table_without_its_second_bar_is_read(tmp_path: Path) -> None:
    distributed(tmp_path, sentences="table")
    rows = f"{KEYS['val']}.jpg| 0| 3 dogs | and a cat .\n{KEYS['val']}.jpg| 4   A dog runs across the grass .\n"
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
            r"token:3: image: '1#0' has occurred with another",
        ),
        (
            "results.csv",
            HEADER + "1.jpg| 0| a\n1.jpg| 0| b\n",
            r"csv:3: image: '1#0' has occurred with another sentence",
        ),
        ("results.csv", HEADER + "1.jpg| 0|  \n", r"results\.csv:2: comment: none in '1\.jpg\| 0\|  '"),
        ("results.csv", HEADER + "1.jpg| A dog .\n", r"results\.csv:2: comment: none in '1\.jpg\| A dog \.'"),
        (
            "results.csv",
            HEADER + "1.jpg| 0| A dog .\n",
            rf"flickr30k\.json: images\[1\]\.filename: '{KEYS['val']}\.jpg' has no sentence in results\.csv",
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


def test_a_packed_split_names_the_image_that_is_missing(tmp_path: Path) -> None:
    distributed(tmp_path)
    listed(tmp_path, split="train")
    pictures = tmp_path / "flickr30k-images"
    (pictures / f"{KEYS['train']}.jpg").unlink()
    (pictures / f"{KEYS['val']}.jpg").write_bytes(picture(GREEN))
    items = flickr30k(tmp_path, "train")
    info = write_packed(tmp_path / "packed" / "train", STILL_STREAMS, items, ORIGIN, max_skipped=0.5)
    assert [skipped["key"] for skipped in info["skipped"]] == [KEYS["train"]]
    assert "no such file" in info["skipped"][0]["reason"]
    packed = open_packed(tmp_path / "packed" / "train")
    assert [example.captions for example in packed.examples] == [("Sentence 0 of val .", "Sentence 1 of val .")]
    np.testing.assert_allclose(packed.arrays["high"][0, 0].mean(axis=(0, 1)), GREEN, atol=6)


def test_a_folder_that_is_not_flickr30k_is_refused(tmp_path: Path) -> None:
    listed(tmp_path)
    with pytest.raises(CorpusError, match=r"no folder of pictures; one of \('flickr30k-images', 'flickr30k_images'\)"):
        list(flickr30k(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"split: 'dev'; one of"):
        list(flickr30k(tmp_path, "dev"))
