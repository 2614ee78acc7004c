"""Searches with default options find words of subtitles, titles, file names and folders in files, before anything else.

The bundle reranks by default, and knows the colours that the sentences name: other clips look more like them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.media_files import write_color_video
from tests.small_bundle import COLOURS, make_small_bundle
from vitascope.cli.main import main

SENTENCES = {
    "zeppelin": "the zeppelin passes over a red roof",
    "Kowalski": "ask Kowalski about the blue door",
    "photosynthesis": "photosynthesis needs more than green light",
    "accordion": "she plays a white accordion in the yard",
    "harbour": "we left the harbour before the black storm",
    "dentist": "my dentist has a yellow car",
    "marmalade": "is there any marmalade on the red table",
    "4711": "the number of the white locker is 4711",
    "Lindström": "Lindström will not sell the green house",
    "kayak": "a kayak is not a blue boat",
    "telescope": "look through the telescope at the white moon",
    "vinegar": "pour the vinegar over the red cabbage",
}
CHATTER = "this is a red and a blue thing"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a bundle and a data folder, in which one video per sentence is indexed, and some without speech."""
    root = tmp_path_factory.mktemp("words")
    make_small_bundle(root / "bundle", default_rerank=20)
    colors = [[255 * part for part in color] for color in COLOURS.values()]
    for number, sentence in enumerate(SENTENCES.values()):
        folder = root / "videos" / ("talks" if number % 2 else "walks")
        folder.mkdir(parents=True, exist_ok=True)
        red, green, blue = colors[(3 * number + 4) % len(colors)]
        write_color_video(folder / f"{number:04}.mp4", (red, green, abs(blue - 2 * number)), 16.0)
        cues = f"1\n00:00:01,000 --> 00:00:04,000\n{CHATTER}\n\n2\n00:00:10,000 --> 00:00:13,000\n{sentence}\n"
        (folder / f"{number:04}.srt").write_text(cues)
    for seconds, path in enumerate(("Summer2019/BeachDay", "sports/arm_wrestling", "sports/final/match-01"), 3):
        file = root / "videos" / f"{path}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_color_video(file, (200, 200, 0), seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITASCOPE_BUNDLE", str(root / "bundle"))
        patch.setenv("VITASCOPE_DATA_DIR", str(root / "data"))
        assert main(["index", str(root / "videos")]) == 0
    return root


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(root / "bundle"))
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(root / "data"))


def search(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["search", *arguments, "--json"]) == 0
    results: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["results"]
    return results


@pytest.mark.parametrize("word", SENTENCES)
def test_a_word_of_one_subtitle_is_found_first(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(capsys, word)[0]["text"] == SENTENCES[word]


@pytest.mark.parametrize("sentence", SENTENCES.values())
def test_the_sentence_of_a_subtitle_is_found_first(sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = search(capsys, sentence)
    assert results[0]["text"] == sentence
    assert results[0]["fused"] is not None, "reranked by default"


@pytest.mark.parametrize("word", ["zeppelin", "accordion", "kayak"])
def test_a_rare_word_beside_a_word_of_what_is_visible_is_found_near_the_top(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(capsys, f"a red {word}")[0]["text"] == SENTENCES[word]
    best = search(capsys, f"{word} in magenta", "--group", "video", "--limit", "3")
    assert SENTENCES[word] in [result["text"] for result in best]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("arm wrestling", "arm_wrestling"),
        ("arm_wrestling.mp4", "arm_wrestling"),
        ("beach day", "BeachDay"),
        ("summer 2019", "BeachDay"),
        ("sports/final", "match-01"),
        ("0007", "0007"),
    ],
)
def test_words_of_file_names_and_folders_are_found_first(
    text: str, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(capsys, text)[0]["video"]["title"] == title


def test_words_of_many_clips_do_not_disturb_a_search_for_what_is_visible(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the clips say "red" and "blue"."""
    for text in ("a magenta thing", "this is the magenta thing", "a thing and a magenta ball"):
        visual = search(capsys, text, "--signals", "visual", "--limit", "1")
        assert [r["video"]["title"] for r in search(capsys, text, "--limit", "1")] == [
            r["video"]["title"] for r in visual
        ]
