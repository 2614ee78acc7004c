"""The same words of `vitascope` here and at a running service: the same JSON, the same text, the same status."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.service.running import Running
from tests.service.uploading import held
from vitascope.cli.completers import collection_names
from vitascope.cli.main import build_parser, main
from vitascope.cli.output import print_mapping
from vitascope.client import Client

JSON = dict[str, Any]

ONE_SIDED = {"path", "vectors", "compatible", "media_url", "thumbnail_url", "job"}
"""Keys that both have, and one of both null: what only this machine or only a service knows."""
OF_THE_MOMENT = {
    *("created_at", "added_at", "started_at", "finished_at", "rate", "bytes", "next_cursor", "changed"),
    "media_not_included",  # what was sent to a service is the collection's own there
}
"""Keys that both have, whose values are of each alone."""
TRIES = itertools.count()
"""A test that is tried again finds no collection of the first try."""
NUMBERED = {"id", "clip_id"}
"""Several files are in work at once: who comes first gets the lower id."""

WORDS = """
0 collection create NAME --index-kind flat
2 collection create NAME
3 index FOLDER --collection NAME --metadata site=north --clip-length 1
3 index FOLDER --collection NAME
3 index FOLDER/list.csv --collection NAME --path-column file --title-column name
2 index FOLDER/list.csv --collection NAME --path-column path
0 collection list
0 collection show NAME
0 collection set NAME --index-kind hnsw
0 search RED --collection NAME
0 search RED --collection NAME --rerank 0 --limit 2 --group video
0 search RED --collection NAME --rerank 0 --limit 2 --group video --cursor CURSOR
2 search BLUE --collection NAME --cursor CURSOR
0 search RED --collection NAME --hybrid --min-similarity 0.1
0 search --like FOLDER/green.mp4 --collection NAME
0 search --like-clip CLIP --collection NAME --limit 3
0 search RED --collection NAME --filter {"site":"south"}
2 search RED --collection NAME --filter {
2 search RED --collection NAME --limit 0
2 search RED --collection none
0 score FOLDER/red.mp4 RED BLUE --reference RED --frames 2
2 score FOLDER/broken.mp4 RED
0 ask FOLDER/green.mp4 QUESTION --top 2 --candidate red --candidate green --candidate wombat --abstain-below 0.99
0 video list --collection NAME
0 video list --collection NAME --limit 1 --filter {"title":"blue"}
2 video list --collection NAME --limit 0
0 video show VIDEO --collection NAME
2 video show 999 --collection NAME
2 video show first --collection NAME
2 video delete VIDEO --collection NAME
0 video delete VIDEO --collection NAME --yes
2 video show VIDEO --collection NAME
0 collection backup NAME OUT/backup.sqlite3
0 collection export NAME OUT/parquet
2 collection drop NAME
0 collection drop NAME --yes
2 collection show NAME
0 collection list
"""
SENTENCES = {"RED": "a red thing", "BLUE": "a blue thing", "QUESTION": "what color is it?"}
JOB_WORDS = """
0 jobs list --collection NAME --state succeeded
0 jobs list --collection NAME --state failed
0 jobs show JOB --collection NAME
0 jobs retry JOB --collection NAME
3 jobs follow JOB --collection NAME
2 jobs pause JOB --collection NAME
2 jobs resume JOB --collection NAME
2 jobs cancel JOB --collection NAME
2 jobs show 999 --collection NAME
2 jobs follow 999 --collection NAME
"""


@dataclass
class Place:
    """Where words are said: their environment, and what the placeholders in them mean."""

    environment: dict[str, str]
    meant: dict[str, str]
    said: list[tuple[int, JSON | None, str]] = field(default_factory=list)

    def say(self, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> JSON | None:
        """Run the words with ``--json``; of a mistake, one line on standard error is looked for."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        known = SENTENCES | self.meant
        words = [known.get(word) or re.sub("^(FOLDER|OUT)", lambda found: known[found[0]], word) for word in words]
        capsys.readouterr()
        status = main([*words, "--json"])
        out, err = capsys.readouterr()
        if status == 2:
            assert out == ""
            assert re.fullmatch(r"vitascope: .+\n", err), err
        result = json.loads(out) if out else None
        if result and "collections" in result:  # the service has those of other tests
            result["collections"] = [one for one in result["collections"] if one["name"] == known["NAME"]]
        self.said.append((status, result, shown(words[0], result)))
        return result


@pytest.fixture
def places(
    running: Running, small_bundle: Path, files: Path, incoming: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[Place, Place]:
    """(here, there), a folder with three videos and a broken one, and the name of a collection that neither has."""
    for file in files.iterdir():
        shutil.copy(file, incoming)
    (incoming / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (incoming / "list.csv").write_text("file,name\nred.mp4,The red one\nnothing.mp4,\n")
    meant = {"NAME": f"both-{len(request.node.name)}-{next(TRIES)}", "FOLDER": str(incoming)}
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    bundle = {"VITASCOPE_BUNDLE": str(small_bundle), "VITASCOPE_DATA_DIR": str(tmp_path / "data")}
    return (
        Place(bundle | {"VITASCOPE_SERVER": ""}, meant | {"OUT": str(tmp_path / "here")}),
        Place(bundle | {"VITASCOPE_SERVER": str(running.client.base_url)}, meant | {"OUT": str(tmp_path / "there")}),
    )


def shown(command: str, result: JSON | None) -> str:
    """What people are shown in place of the JSON."""
    if result is None:
        return ""
    text = io.StringIO()
    (build_parser(command)[1] or print_mapping)(result, Console(file=text, width=400, highlight=False))
    return text.getvalue()


def compare(here: Place, there: Place, words: str) -> None:
    for line, ours, theirs in zip(words.strip().splitlines(), here.said, there.said, strict=True):
        assert (ours[0], theirs[0]) == (int(line[0]), int(line[0])), line
        assert comparable(ours[1], here) == comparable(theirs[1], there), line
        assert plain(ours[2], here) == plain(theirs[2], there), line


def comparable(value: Any, place: Place) -> Any:
    """Without what is named above as different; keys stay."""
    if isinstance(value, dict):
        different = ONE_SIDED | OF_THE_MOMENT | NUMBERED
        found = {key: comparable(one, place) for key, one in value.items() if key not in different}
        return {**found, "different": sorted(different & value.keys())}
    if isinstance(value, list):
        listed = [comparable(one, place) for one in value]
        return sorted(listed, key=json.dumps) if listed and isinstance(listed[0], dict) else listed
    if isinstance(value, float):
        return round(value, 4)
    return value.replace(place.meant["OUT"], "OUT") if isinstance(value, str) else value


def plain(text: str, place: Place) -> list[list[str]]:
    """Words of the lines, sorted, without ids. A file here is named by its path, at a service by the video's title."""
    text = re.sub(r"\S*/(red|green|blue)\.mp4", r"\1", text.replace(place.meant["OUT"], "OUT"))
    text = re.sub(r"(?m)^ *\d+ +(?=[a-z]+ +\d:)|(?<=video )\d+ |(?<=\d:\d\d-\d:\d\d) +\d+", "", text)
    text = re.sub(r"(?m)^\d+ media files of the collection .*\n", "", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d|[\d.]+ (bytes|[kM]B)|--cursor \S+", "…", text)
    return sorted(line.split() for line in text.splitlines())


def test_the_same_words_here_and_at_a_service(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in places:
        for line in WORDS.strip().splitlines():
            result = place.say(line[2:].split(), monkeypatch, capsys)
            if line[2:].startswith("search") and result and result["results"]:
                place.meant["CURSOR"] = result["next_cursor"] or place.meant.get("CURSOR", "")
                place.meant["CLIP"] = result["results"][0]["clip_id"]
            elif line[2:].startswith("video list --collection NAME") and result:
                place.meant["VIDEO"] = next(one["id"] for one in result["videos"] if one["title"] == "blue")
    compare(*places, WORDS)
    for place in places:
        indexed, again = (result for _, result, _ in place.said[2:4])
        assert indexed is not None
        assert again is not None
        assert (indexed["added"], indexed["failed"], indexed["clips"]) == (3, 1, 6)
        assert (again["added"], again["skipped"], again["failed"]) == (0, 4, 1)


def test_the_same_words_about_jobs(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = places
    for place, where in ((here, []), (there, ["--remote"])):
        indexed = place.say(["index", "FOLDER", "--collection", "NAME", *where], monkeypatch, capsys)
        assert indexed is not None
        place.meant["JOB"] = indexed["job"]
        for line in JOB_WORDS.strip().splitlines():
            place.say(line[2:].split(), monkeypatch, capsys)
    compare(here, there, f"3 index\n{JOB_WORDS.strip()}")
    followed = there.said[5]
    assert followed[1] is not None
    assert (followed[1]["failed"], Path(followed[1]["failures"][0]["file"]).name) == (1, "broken.mp4")
    assert "broken.mp4" in followed[2]


def test_an_upload_that_was_interrupted_goes_on_and_sends_nothing_twice(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, there = places
    sent: list[str] = []
    add_video = Client.add_video

    def noted(client: Client, collection: str, file: Path, **about: Any) -> JSON:
        if len(sent) == 1:
            sent.append("interrupted")
            raise KeyboardInterrupt
        sent.append(file.name)
        return add_video(client, collection, file, **about)

    monkeypatch.setattr(Client, "add_video", noted)
    (Path(there.meant["FOLDER"]) / "red.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nred\n")
    words = ["index", "FOLDER", "--collection", "NAME"]
    (Path(there.meant["FOLDER"]) / "broken.mp4").unlink()
    there.say(words, monkeypatch, capsys)
    result = there.say(words, monkeypatch, capsys)
    assert sent == ["blue.mp4", "interrupted", "green.mp4", "red.mp4"]
    assert [status for status, _, _ in there.said] == [130, 0]
    assert result is not None
    assert (result["files"], result["added"], result["skipped"], result["videos"]) == (5, 2, 3, 3)
    assert there.said[1][2].startswith("2 added, 3 skipped: collection ")
    [note] = result["notes"]
    assert (Path(note["file"]).name, note["note"].partition(":")[0]) == ("red.mp4", "red.srt")


def test_a_job_that_is_refused_leaves_no_empty_collection(
    places: tuple[Place, Place], running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, there = places
    there.say(["index", "/no/allowed/root", "--remote", "--collection", "NAME"], monkeypatch, capsys)
    assert [status for status, _, _ in there.said] == [2]
    assert running.client.get(f"/v1/collections/{there.meant['NAME']}").status_code == 404


def test_a_file_that_is_too_much_for_the_service_is_listed_and_the_others_are_sent(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, there = places
    (Path(there.meant["FOLDER"]) / "a.mp4").write_bytes(bytes(2_100_000))
    result = there.say(["index", "FOLDER", "--collection", "NAME"], monkeypatch, capsys)
    assert result is not None
    assert (result["added"], result["failed"]) == (3, 2)
    assert [Path(one["file"]).name for one in result["failures"]] == ["a.mp4", "broken.mp4"]
    assert result["failures"][0]["reason"].startswith("a.mp4: file: more than 2000000 bytes")


def test_an_upload_is_deleted_with_its_video_beside_the_service_and_by_it(
    running: Running, colors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = running.client.get(f"/v1/collections/{colors}/videos?limit=3").json()["videos"]
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(running.settings.data_dir))
    folder = running.settings.data_dir / "collections" / colors
    words = ["--collection", colors, "--yes"]
    assert main(["video", "delete", first["id"], *words]) == 0
    assert held(folder) == sorted(video["content_sha256"] for video in (second, third))
    assert main(["video", "delete", second["id"], *words, "--server", str(running.client.base_url)]) == 0
    assert held(folder) == [third["content_sha256"]]
    assert running.client.get(third["media_url"]).status_code == 200
    capsys.readouterr()


def test_a_shell_is_offered_the_collections_of_the_service_that_its_line_names(running: Running, palette: str) -> None:
    url = str(running.client.base_url)
    assert collection_names(parsed_args=argparse.Namespace(server=url))[palette] == "3 videos, 3 clips"


NO = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["search", "red", "--data", "x"], f"--data: has no effect on {NO}; --local was expected"),
        (["score", "a.mp4", "red", "--device", "cpu"], "--device: has no effect on"),
        (["index", ".", "--watch"], "--watch: has no effect on"),
        (["index", "a.tar"], "shards cannot be uploaded; --remote or --local was expected"),
        (["collection", "import", "a", "b"], "import: not supported by http://127.0.0.1:1; --local was expected"),
        (["collection", "restore", "a", "b"], "--local was expected, on the machine of the service"),
        (["collection", "create", "a", "--vectors", "faiss"], "--vectors: has no effect on"),
        (["models", "list", "--local"], "--server URL was expected"),
        (["index", ".", "--remote", "--local"], "--remote: only valid with --server URL"),
        (["jobs", "list", "--local", "--data", "nowhere"], "'nowhere' holds no collections"),
    ],
)
def test_what_goes_one_way_only_says_so_in_one_line(
    words: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VITASCOPE_SERVER", NO)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").touch()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert problem in err
    assert err.count("\n") == 1
