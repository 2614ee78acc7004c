"""Commands give the same JSON, text and exit status in a data folder and through a service."""

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
from tests.service.uploading import stored_hashes
from vitascope.cli.completion import collection_names
from vitascope.cli.main import build_parser, main
from vitascope.cli.output import print_mapping
from vitascope.client import Client

JSON = dict[str, Any]

NULL_ON_ONE_SIDE = {"path", "vectors", "model_loaded", "default_rerank", "media_url", "thumbnail_url", "job"}
"""Fields that only one of the backends fills."""
DIFFERENT_VALUES = {
    *("created_at", "added_at", "started_at", "finished_at", "rate", "bytes", "next_cursor", "changed"),
    "media_not_included",  # uploads are files of the collection
}
"""Fields whose values differ."""
ATTEMPTS = itertools.count()
"""Makes names of collections unique if a test runs again."""
IDS = {"id", "clip_id"}
"""Files are indexed concurrently, so ids depend on timing."""

COMMANDS = """
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
0 search RED --collection NAME --signals visual,name=0.5 --min-similarity 0.1
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
2 video list --collection NAME --filter [1]
0 video show VIDEO --collection NAME
2 video show 999 --collection NAME
2 video show first --collection NAME
0 video edit VIDEO --collection NAME --title other --metadata year=2024 --unset site --subtitles FOLDER/blue.srt
0 video edit VIDEO --collection NAME --title blue
2 video edit VIDEO --collection NAME
3 index FOLDER --collection NAME --metadata site=north
3 index FOLDER --collection NAME --metadata site=south
0 video list --collection NAME --filter {"site":"south"}
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
TEXTS = {"RED": "a red thing", "BLUE": "a blue thing", "QUESTION": "what color is it?"}
STATED = ("--metadata site=north", "--metadata site=south")
"""Metadata that the videos have, though one was edited, and new one."""
JOB_COMMANDS = """
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
class Side:
    """Runs commands with one backend.

    Attributes:
        environment: variables that choose the backend.
        placeholders: values of capitalised words in commands.
        results: exit status, JSON and text of each command.
    """

    environment: dict[str, str]
    placeholders: dict[str, str]
    results: list[tuple[int, JSON | None, str]] = field(default_factory=list)

    def run(self, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> JSON | None:
        """Run a command with ``--json``; an error must be one line on standard error."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        values = TEXTS | self.placeholders
        words = [values.get(word) or re.sub("^(FOLDER|OUT)", lambda match: values[match[0]], word) for word in words]
        capsys.readouterr()
        status = main([*words, "--json"])
        out, err = capsys.readouterr()
        if status == 2:
            assert out == ""
            assert re.fullmatch(r"vitascope: .+\n", err), err
        result = json.loads(out) if out else None
        if result and "collections" in result:  # the service has collections of other tests
            result["collections"] = [each for each in result["collections"] if each["name"] == values["NAME"]]
        self.results.append((status, result, text_output(words[0], result)))
        return result


@pytest.fixture
def sides(
    running: Running, small_bundle: Path, files: Path, incoming: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[Side, Side]:
    """Return (local, remote), with a folder of three videos and a broken file, and the name of a new collection."""
    for file in files.iterdir():
        shutil.copy(file, incoming)
    (incoming / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (incoming / "blue.srt").write_text("1\n00:00:00,000 --> 00:00:00,900\nfar out at sea\n")
    (incoming / "list.csv").write_text("file,name\nred.mp4,The red one\nnothing.mp4,\n")
    placeholders = {"NAME": f"both-{len(request.node.name)}-{next(ATTEMPTS)}", "FOLDER": str(incoming)}
    (tmp_path / "local").mkdir()
    (tmp_path / "remote").mkdir()
    bundle = {"VITASCOPE_BUNDLE": str(small_bundle), "VITASCOPE_DATA_DIR": str(tmp_path / "data")}
    return (
        Side(bundle | {"VITASCOPE_SERVER": ""}, placeholders | {"OUT": str(tmp_path / "local")}),
        Side(
            bundle | {"VITASCOPE_SERVER": str(running.client.base_url)},
            placeholders | {"OUT": str(tmp_path / "remote")},
        ),
    )


def text_output(command: str, result: JSON | None) -> str:
    """Return what the command prints without ``--json``."""
    if result is None:
        return ""
    text = io.StringIO()
    (build_parser(command)[1] or print_mapping)(result, Console(file=text, width=400, highlight=False))
    return text.getvalue()


def compare(local: Side, remote: Side, commands: str) -> None:
    for line, by_local, by_remote in zip(commands.strip().splitlines(), local.results, remote.results, strict=True):
        assert (by_local[0], by_remote[0]) == (int(line[0]), int(line[0])), line
        assert comparable(by_local[1], local) == comparable(by_remote[1], remote), line
        assert plain(by_local[2], local) == plain(by_remote[2], remote), line


def comparable(value: Any, side: Side) -> Any:
    """Return ``value`` without the values that may differ; keys are kept."""
    if isinstance(value, dict):
        different = NULL_ON_ONE_SIDE | DIFFERENT_VALUES | IDS
        equal = {key: comparable(each, side) for key, each in value.items() if key not in different}
        return {**equal, "different": sorted(different & value.keys())}
    if isinstance(value, list):
        items = [comparable(each, side) for each in value]
        return sorted(items, key=json.dumps) if items and isinstance(items[0], dict) else items
    if isinstance(value, float):
        return round(value, 4)
    return value.replace(side.placeholders["OUT"], "OUT") if isinstance(value, str) else value


def plain(text: str, side: Side) -> list[list[str]]:
    """Return the words of all lines, sorted, without ids. Uploads have no path: their results show titles."""
    text = text.replace("The red one", "red")
    text = re.sub(r"(site=north|site=south|year=2024) +\S+/(?:red|green|blue)\.mp4", r"\1", text)
    text = re.sub(r"\S*/(red|green|blue)\.mp4", r"\1", text.replace(side.placeholders["OUT"], "OUT"))
    text = re.sub(r"(?m)^ *\d+ +(?=[a-z]+ +\d:)|(?<=video )\d+ |(?<=\d:\d\d-\d:\d\d) +\d+", "", text)
    text = re.sub(r"(?m)^\d+ media files of the collection .*\n", "", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d|[\d.]+ (bytes|[kM]B)|--cursor \S+", "…", text)
    return sorted(line.split() for line in text.splitlines())


def test_commands_have_equal_results_in_a_data_folder_and_through_a_service(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in sides:
        for line in COMMANDS.strip().splitlines():
            result = side.run(line[2:].split(), monkeypatch, capsys)
            if line[2:].startswith("search") and result and result["results"]:
                side.placeholders["CURSOR"] = result["next_cursor"] or side.placeholders.get("CURSOR", "")
                side.placeholders["CLIP"] = result["results"][0]["clip_id"]
            elif line[2:].startswith("video list --collection NAME") and result:
                side.placeholders["VIDEO"] = next(video["id"] for video in result["videos"] if video["title"] == "blue")
    compare(*sides, COMMANDS)
    for side in sides:
        indexed, again = (result for _, result, _ in side.results[2:4])
        assert indexed is not None
        assert again is not None
        assert (indexed["added"], indexed["failed"], indexed["clips"]) == (3, 1, 6)
        assert (again["added"], again["skipped"], again["failed"]) == (0, 5, 1)
        results = {line: result for line, (_, result, _) in zip(COMMANDS.splitlines()[1:], side.results, strict=True)}
        stated_before, stated_now = (results[f"3 index FOLDER --collection NAME {metadata}"] for metadata in STATED)
        assert stated_before is not None
        assert stated_now is not None
        assert (stated_before["refreshed"], stated_now["refreshed"]) == (0, 3)


def test_job_commands_have_equal_results_in_a_data_folder_and_through_a_service(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local, remote = sides
    for side, option in ((local, []), (remote, ["--remote"])):
        indexed = side.run(["index", "FOLDER", "--collection", "NAME", *option], monkeypatch, capsys)
        assert indexed is not None
        side.placeholders["JOB"] = indexed["job"]
        for line in JOB_COMMANDS.strip().splitlines():
            side.run(line[2:].split(), monkeypatch, capsys)
    compare(local, remote, f"3 index\n{JOB_COMMANDS.strip()}")
    followed = remote.results[5]
    assert followed[1] is not None
    assert (followed[1]["failed"], Path(followed[1]["failures"][0]["file"]).name) == (1, "broken.mp4")
    assert "broken.mp4" in followed[2]


def test_rejected_jobs_and_files_are_reported(
    sides: tuple[Side, Side], running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, remote = sides
    remote.run(["index", "/no/allowed/root", "--remote", "--collection", "NAME"], monkeypatch, capsys)
    assert [status for status, _, _ in remote.results] == [2]
    assert running.client.get(f"/v1/collections/{remote.placeholders['NAME']}").status_code == 404
    (Path(remote.placeholders["FOLDER"]) / "a.mp4").write_bytes(bytes(running.settings.max_video_bytes + 1))
    result = remote.run(["index", "FOLDER", "--collection", "NAME"], monkeypatch, capsys)
    assert result is not None
    assert (result["added"], result["failed"]) == (3, 2)
    assert [Path(failure["file"]).name for failure in result["failures"]] == ["a.mp4", "broken.mp4"]
    limit = running.settings.max_video_bytes
    assert result["failures"][0]["reason"].startswith(f"a.mp4: file: more than {limit} bytes")


def test_interrupted_upload_continues_without_sending_a_file_twice(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, remote = sides
    sent: list[str] = []
    add_video = Client.add_video

    def record(client: Client, collection: str, file: Path, **options: Any) -> JSON:
        if len(sent) == 1:
            sent.append("interrupted")
            raise KeyboardInterrupt
        sent.append(file.name)
        return add_video(client, collection, file, **options)

    monkeypatch.setattr(Client, "add_video", record)
    (Path(remote.placeholders["FOLDER"]) / "red.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nred\n")
    words = ["index", "FOLDER", "--collection", "NAME", "--segment", "subtitles"]
    (Path(remote.placeholders["FOLDER"]) / "broken.mp4").unlink()
    remote.run(words, monkeypatch, capsys)
    result = remote.run(words, monkeypatch, capsys)
    assert sent == ["blue.mp4", "interrupted", "green.mp4", "red.mp4"]
    assert [status for status, _, _ in remote.results] == [130, 0]
    assert result is not None
    assert (result["files"], result["added"], result["skipped"], result["videos"]) == (6, 2, 4, 3)
    assert remote.results[1][2].startswith("2 added, 4 skipped (1 already indexed, 3 not media): collection ")
    notes = {Path(note["file"]).name: note["note"] for note in result["notes"]}
    assert "subtitles beside the file were added after it had been cut" in notes["red.mp4"]
    assert "subtitles beside" not in notes["green.mp4"]
    shown = remote.run(["video", "list", "--collection", "NAME", "--filter", '{"title": "red"}'], monkeypatch, capsys)
    assert shown is not None
    shown = remote.run(["video", "show", shown["videos"][0]["id"], "--collection", "NAME"], monkeypatch, capsys)
    assert shown is not None
    assert [clip["text"] for clip in shown["video"]["spans"]] == ["red"]  # of red.srt


def test_deleting_a_video_deletes_its_upload(
    running: Running, colors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = running.client.get(f"/v1/collections/{colors}/videos?limit=3").json()["videos"]
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(running.settings.data_dir))
    folder = running.settings.data_dir / "collections" / colors
    words = ["--collection", colors, "--yes"]
    assert main(["video", "delete", first["id"], *words]) == 0
    assert stored_hashes(folder) == sorted(video["content_sha256"] for video in (second, third))
    assert main(["video", "delete", second["id"], *words, "--server", str(running.client.base_url)]) == 0
    assert stored_hashes(folder) == [third["content_sha256"]]
    assert running.client.get(third["media_url"]).status_code == 200
    capsys.readouterr()


def test_an_upload_whose_file_is_missing_is_sent_again(
    running: Running, colors: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = running.settings.data_dir / "collections" / colors
    before = stored_hashes(folder)
    next(folder.glob("media/*")).unlink()
    words = ["index", str(files), "--collection", colors, "--server", str(running.client.base_url), "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["added"], result["refreshed"], result["duplicates"], result["videos"]) == (0, 1, 2, 3)
    assert [note["note"] for note in result["notes"]] == ["its file was missing"]
    assert stored_hashes(folder) == before


def test_collections_of_a_service_are_completed(running: Running, palette: str) -> None:
    url = str(running.client.base_url)
    assert collection_names(parsed_args=argparse.Namespace(server=url))[palette] == "3 videos, 3 clips"


UNREACHABLE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["search", "red", "--data", "x"], f"--data: has no effect on {UNREACHABLE}; --local was expected"),
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
def test_options_of_the_other_backend_are_rejected(
    words: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VITASCOPE_SERVER", UNREACHABLE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").touch()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert problem in err
    assert err.count("\n") == 1
