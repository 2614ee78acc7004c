from __future__ import annotations

from pathlib import Path

import pytest

from training.data.corpus import CorpusError
from training.data.lsmdc import lsmdc

CLIP = "3009_BATTLE_LOS_ANGELES_00.03.07.170-00.03.09.675"
TIMES = "00.03.07.170\t00.03.09.675\t00.03.07.170\t00.03.09.675"


def test_a_clip_has_all_its_sentences_and_is_used_whole(tmp_path: Path) -> None:
    other = "0001_American_Beauty_00.00.51.926-00.00.54.129"
    lines = [f'{CLIP}\t{TIMES}\tSOMEONE says "go.', f"{other}\t{TIMES}\tShe waits.", f"{CLIP}\t{TIMES}\tHe runs."]
    (tmp_path / "LSMDC16_annos_training.csv").write_text("\n".join(lines) + "\n")
    video = tmp_path / "avi-m-vad-aligned" / "0001_American_Beauty" / f"{other}.avi"
    video.parent.mkdir(parents=True)
    video.touch()
    (tmp_path / "avi").mkdir()
    (first, media), (second, second_media) = lsmdc(tmp_path, "train")
    assert (first.key, first.captions) == (CLIP, ('SOMEONE says "go.', "He runs."))
    assert media == tmp_path / "avi" / "3009_BATTLE_LOS_ANGELES" / f"{CLIP}.avi"
    assert (second.captions, second_media) == (("She waits.",), video)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{CLIP}\tHe runs.", r"publictect\.csv:1: 2 fields; clip, .*, sentence, with tabs"),
        (f"{CLIP}\t{TIMES}\t ", r"publictect\.csv:1: sentence: ''; a sentence was expected"),
        (f"../x_1\t{TIMES}\tHe runs.", r"publictect\.csv:1: clip: '\.\./x_1'; MOVIE_START-END was expected"),
    ],
)
def test_a_malformed_line_names_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "avi").mkdir()
    (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(line + "\n")
    with pytest.raises(CorpusError, match=message):
        list(lsmdc(tmp_path, "test"))
    with pytest.raises(CorpusError, match=r"no LSMDC16_annos_val\.csv in any of"):
        list(lsmdc(tmp_path, "val"))
