from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, movie
from training.data.errors import CorpusError
from training.data.films import ORIGIN, film_clips
from training.data.packed import open_packed, write_packed
from vitascope.bundle.manifest import FrameStream


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "old").mkdir()
    movie(folder / "a.mp4", [RED, GREEN, BLUE, RED])  # two seconds
    movie(folder / "old" / "b.mp4", [GREEN, GREEN])
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".hidden.mp4").write_bytes(b"")
    return folder


def test_every_film_is_cut_into_equal_clips_and_whole_films_are_held_out(films: Path) -> None:
    said: list[str] = []
    learned, held_out = film_clips(films, 0.5, said.append)
    by_video = {
        video: [(e.attributes["start"], e.attributes["end"]) for e, _ in clips if e.attributes["video"] == video]
        for clips in (learned, held_out)
        for video in {str(e.attributes["video"]) for e, _ in clips}
    }
    assert by_video == {
        "a.mp4": [pytest.approx(span) for span in ((0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2))],
        "old/b.mp4": [pytest.approx(span) for span in ((0, 0.5), (0.5, 1))],
    }
    assert {str(e.attributes["video"]) for e, _ in learned}.isdisjoint(e.attributes["video"] for e, _ in held_out)
    assert held_out
    assert len(said) == 1
    assert said[0].startswith("broken.mp4: ")


def test_clips_are_decoded_from_where_they_lie(films: Path, tmp_path: Path) -> None:
    learned, held_out = film_clips(films, 0.5, lambda _: None)
    clips = [clip for clip in [*learned, *held_out] if clip[0].attributes["video"] == "a.mp4"]
    stream = FrameStream(name="high", frames=1, height=16, width=16, placement="middle")
    write_packed(tmp_path / "films" / "train", [stream], clips, ORIGIN)
    packed = open_packed(tmp_path / "films" / "train")
    assert [e.key for e in packed.examples] == [f"a.mp4#{i:05}" for i in range(4)]
    assert packed.arrays["high"].mean(axis=(1, 2, 3)).argmax(axis=1).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(("seconds", "message"), [(0.0, "clip-seconds: 0"), (1.0, "no readable video in it")])
def test_a_folder_without_films_and_clips_without_length_are_refused(
    seconds: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=message):
        film_clips(tmp_path, seconds, lambda _: None)
