"""The `vitascope` command: help, output, exit statuses, imports, and completion in bash, zsh and fish."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index.cli.local_backend import LocalBackend
from tests.media_files import solid, write_video
from tests.small_bundle import make_small_bundle
from tests.tools import find_tool
from vitascope.cli.completion import collection_names
from vitascope.cli.main import COMMANDS, CommandSpec, main
from vitascope.cli.output import TerminalConsole, print_document
from vitascope.errors import InvalidInput

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the small bundle and a temporary data folder by default."""
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(small_bundle))
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Folder with a red, a green and a blue image."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, color in (("red", (220, 10, 10)), ("green", (10, 220, 10)), ("blue", (10, 10, 220))):
        Image.fromarray(np.full((64, 64, 3), color, np.uint8)).save(folder / f"{name}.png")
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == status
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


# Help


def test_without_arguments_all_commands_are_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name, spec in COMMANDS.items():
        assert f"{name} " in out
        assert spec.summary in out
    assert 'vitascope search "a red square moves left"' in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: vitascope {name}" in out
    assert "examples:" in out
    assert out.count(f"vitascope {name}") >= 2


def test_parsers_import_no_heavy_package() -> None:
    """`vitascope --help` must be fast and work in a partial installation; so must completion, which builds parsers."""
    heavy = ["torch", "transformers", "fastapi", "faiss", "onnxruntime", "av", "numpy", "httpx", "pydantic"]
    code = f"""
import sys, vitascope.cli.main as c
def print_imported(names):
    print([name for name in names if name in sys.modules])
c.build_parser(None)
print_imported({heavy} + ["index", "service", "training", "rich"])
for name in ("index", "search", "video", "jobs", "collection", "score", "ask", "models", "keys", "serve"):
    c.build_parser(name)
print_imported({heavy})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_a_search_by_text_imports_only_what_it_needs(pictures: Path) -> None:
    """Imports take most of the time of a search from a shell."""
    assert main(["index", str(pictures)]) == 0
    learning = ["torch", "transformers", "onnx", "training", "model_export"]
    serving = ["service", "fastapi", "starlette", "uvicorn", "httpx", "prometheus_client", "opentelemetry"]
    unused = [*learning, *serving, "av", "PIL", "pyarrow", "pymilvus", "ray", "cryptography", "rich.progress"]
    code = f"""
import sys, vitascope.cli.main as c
assert c.main(["search", "a red square", "--limit", "1"]) == 0
print([name for name in {unused} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "red.png" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


# Mistakes and defects


def test_user_error_is_one_line_on_stderr_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "missing.mp4", "a dog"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vitascope: ")
    assert "missing.mp4" in captured.err


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serch", "a dog"])
    assert ended.value.code == 2
    assert "serch" in capsys.readouterr().err


def test_options_cannot_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", "create", "ann", "--scope", "read"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --scope" in capsys.readouterr().err


def register_fake(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Register a command `fake` that calls ``run``."""
    module = SimpleNamespace(COMMANDS={"fake": (lambda parser: None, run)})
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setitem(COMMANDS, "fake", CommandSpec("fake_command", "does something"))


@pytest.mark.parametrize(
    ("package", "hint"),
    [
        ("torch", "pip install 'vitascope[cpu,train,pretrained]'"),
        ("timm.models", "pip install 'vitascope[cpu,train,pretrained]'"),
        ("onnxruntime", "pip install 'vitascope[cpu]'"),
        ("tensorrt", "pip install 'vitascope[tensorrt]'"),
    ],
)
def test_missing_package_names_the_extra(
    package: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> dict[str, Any]:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    register_fake(monkeypatch, run)
    assert main(["fake"]) == 2
    err = capsys.readouterr().err
    assert hint in err
    assert package.split(".")[0] in err
    assert "`vitascope fake`" in err


def test_full_disk_is_one_line_on_stderr_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> dict[str, Any]:
        with open("/dev/full", "w") as file:
            file.write("words")
        return {}

    register_fake(monkeypatch, run)
    assert main(["fake"]) == 2
    assert capsys.readouterr().err == "vitascope: writing: No space left on device\n"


def test_unexpected_exception_propagates(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> dict[str, Any]:
        raise ModuleNotFoundError("No module named 'vitascope.nonsense'", name="vitascope.nonsense")

    register_fake(monkeypatch, run)
    with pytest.raises(ModuleNotFoundError):
        main(["fake"])


def test_interrupt_exits_with_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> dict[str, Any]:
        raise KeyboardInterrupt

    register_fake(monkeypatch, run)
    assert main(["fake"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_result_without_show_is_printed_as_table_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register_fake(monkeypatch, lambda args: {"checkpoint": "runs/a[1]:dog:", "steps": 7, "losses": [1.5]})
    assert main(["fake"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["checkpoint", "runs/a[1]:dog:"],
        ["steps", "7"],
        ["losses", "[1.5]"],
    ]
    assert run_json(capsys, "fake") == {"checkpoint": "runs/a[1]:dog:", "steps": 7, "losses": [1.5]}


def test_file_name_that_is_not_utf_8_is_printed_with_an_escape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    register_fake(monkeypatch, lambda args: {"file": name})
    assert main(["fake"]) == 0
    assert capsys.readouterr().out.split() == ["file", r"caf\udce9.mp4"]
    assert run_json(capsys, "fake") == {"file": name}


def test_control_characters_of_names_reach_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a\x1b]0;owned\x07\x9b2J\u202e[b].mp4"

    def run(args: argparse.Namespace) -> dict[str, Any]:
        if args.json:
            raise InvalidInput(f"{name}: unreadable")
        return {"file": name}

    register_fake(monkeypatch, run)
    assert main(["fake"]) == 0
    shown = r"a\x1b]0;owned\x07\x9b2J\u202e[b].mp4"
    assert capsys.readouterr().out.split() == ["file", shown]
    assert main(["fake", "--json"]) == 2
    assert capsys.readouterr().err == f"vitascope: {shown}: unreadable\n"
    with pytest.raises(SystemExit):
        main(["fake", name])
    assert capsys.readouterr().err.endswith(f"unrecognized arguments: {shown}\n")


def test_documents_are_unchanged_in_files_and_escaped_in_terminals() -> None:
    text = "1\n\u2067name\u2069 \x1b[2J\n"
    for is_terminal, expected in ((False, text), (True, "1\n\\u2067name\\u2069 \\x1b[2J\n")):
        file = io.StringIO()
        print_document(text, TerminalConsole(file=file, force_terminal=is_terminal, width=80))
        assert file.getvalue() == expected


def test_full_disk_of_standard_output_is_one_line_on_stderr_with_status_2() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vitascope", "completion", "bash"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == "vitascope: standard output: cannot be written: No space left on device\n"
    assert done.returncode == 2


# Scores, answers, bundles


def test_score_ranks_the_right_caption_first(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(pictures / "red.png")
    result = run_json(capsys, "score", file, "a blue thing", "a red thing")
    assert result["file"] == file
    blue, red = result["scores"]
    assert [blue["caption"], red["caption"]] == ["a blue thing", "a red thing"]
    for key in ("similarity", "match", "fused", "clipscore"):
        assert red[key] > blue[key]
    assert red["clipscore"] == pytest.approx(2.5 * red["similarity"])


def test_score_without_a_matching_graph_returns_similarity(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_small_bundle(tmp_path / "plain", tasks=("retrieval",))
    file = str(pictures / "red.png")
    score = run_json(capsys, "score", file, "a red thing", "--bundle", str(plain))["scores"][0]
    assert score["match"] is None
    assert score["fused"] is None
    assert score["similarity"] > 0.5
    assert main(["score", file, "a red thing", "--bundle", str(plain)]) == 0
    assert "a red thing" in capsys.readouterr().out


def test_score_with_references_and_frames_shows_words(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(pictures / "red.png")
    options = ["a blue thing", "a red thing", "--reference", "a red ball", "--frames", "4"]
    blue, red = run_json(capsys, "score", file, *options)["scores"]
    assert red["refclipscore"] > blue["refclipscore"]
    assert red["emscore"]["score"] > blue["emscore"]["score"]
    assert main(["score", file, *options]) == 0
    output = capsys.readouterr().out
    assert "refclipscore" in output
    assert "word and frame" in output
    assert main(["score", file, "a red thing", "--frames", "-1"]) == 2
    assert "--frames: -1" in capsys.readouterr().err


def test_ask_lists_answers_and_may_abstain(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(pictures / "green.png"), "what color is it?"]
    answers = run_json(capsys, *words, "--top", "3")["answers"]
    assert answers[0]["text"] == "green"
    assert len(answers) == 3
    words += ["--candidate", "red", "--candidate", "blue"]
    result = run_json(capsys, *words, "--candidate", "wombat", "--abstain-below", "0.99")
    assert (result["answer"], result["abstained"], result["out_of_vocabulary"]) == (None, True, ["wombat"])
    assert {answer["text"] for answer in result["answers"]} == {"red", "blue"}
    assert main([*words, "--candidate", "wombat", "--abstain-below", "0.99"]) == 0
    output = capsys.readouterr().out
    assert "No answer: all probabilities are below the minimum" in output
    assert "wombat" in output
    assert main([*words[:3], "--candidate", "wombat"]) == 0
    assert "No answer: the vocabulary has no candidate" in capsys.readouterr().out


def test_ask_needs_a_bundle_with_the_task(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = make_small_bundle(tmp_path / "plain", tasks=("retrieval",))
    assert main(["ask", str(pictures / "red.png"), "what?", "--bundle", str(plain)]) == 2
    assert "answering" in capsys.readouterr().err


# Indexing and searching


def test_indexed_images_are_found_and_known_ones_skipped(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    indexed = run_json(capsys, "index", str(pictures))
    assert {key: indexed[key] for key in ("files", "added", "skipped", "failed")} == {
        "files": 3,
        "added": 3,
        "skipped": 0,
        "failed": 0,
    }
    best = run_json(capsys, "search", "a green thing", "--limit", "1", "--rerank", "3")["results"]
    assert [result["video"]["title"] for result in best] == ["green"]
    assert best[0]["video"]["path"] == str(pictures / "green.png")
    assert best[0]["fused"] is not None
    plain = run_json(capsys, "search", "a blue thing")["results"]
    assert plain[0]["video"]["title"] == "blue"
    assert [result["fused"] for result in plain] == [None, None, None]
    assert main(["search", "a red thing", "--limit", "1", "--rerank", "3", "--signals", "visual"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["relevance", "match", "similarity", "clip", "video"]
    assert row.rstrip().endswith("red.png")
    (pictures / "notes.txt").write_text("words")
    assert run_json(capsys, "index", str(pictures))["duplicates"] == 3
    assert main(["index", str(pictures)]) == 0
    summary = "0 added, 4 skipped (3 already indexed, 1 not media): collection videos has 3 videos, 3 clips"
    assert summary in capsys.readouterr().out


def test_a_limit_that_a_setting_raises_is_named(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITASCOPE_MAX_PIXELS", "100")
    result = run_json(capsys, "index", str(pictures), status=3)
    assert result["failures"][0]["reason"].endswith("at most 100 pixels are read (VITASCOPE_MAX_PIXELS)")
    assert main(["score", str(pictures / "red.png"), "a red thing"]) == 2
    assert "VITASCOPE_MAX_PIXELS" in capsys.readouterr().err


def test_a_link_that_leaves_the_folder_is_skipped_with_its_reason(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    shutil.copy(pictures / "red.png", folder)
    (folder / "blue.png").symlink_to(pictures / "blue.png")
    (folder / "notes.txt").write_text("words")
    result = run_json(capsys, "index", str(folder))
    assert (result["added"], result["skipped"]) == (1, 2)
    link = {"file": str(folder / "blue.png"), "note": "a symbolic link that leaves the folder"}
    assert result["notes"] == [link]


def test_a_folder_without_media_is_an_error_and_leaves_no_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert main(["index", str(folder)]) == 2
    assert f"source: {str(folder)!r} has no files; videos or pictures were expected" in capsys.readouterr().err
    (folder / "notes.txt").write_text("words")
    assert main(["index", str(folder)]) == 2
    message = "has only files that are not media or links that leave it (1); videos or pictures were expected"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data" / "collections" / "videos").exists()


def test_a_new_collection_that_another_process_uses_stays(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job, empty = LocalBackend.run_job, tmp_path / "empty"
    empty.mkdir()

    def run_after_another(*arguments: Any) -> Any:
        monkeypatch.setattr(LocalBackend, "run_job", run_job)
        assert run_json(capsys, "index", str(pictures))["added"] == 3
        return run_job(*arguments)

    monkeypatch.setattr(LocalBackend, "run_job", run_after_another)
    assert main(["index", str(empty)]) == 2
    assert run_json(capsys, "index", str(pictures))["duplicates"] == 3


def test_failed_files_are_listed_and_exit_status_is_3(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "broken.mp4").write_bytes(b"")
    result = run_json(capsys, "index", str(pictures), status=3)
    assert (result["added"], result["failed"]) == (3, 1)
    assert result["failures"][0]["file"] == str(pictures / "broken.mp4")
    assert result["failures"][0]["reason"]
    assert main(["index", str(pictures)]) == 3
    assert "broken.mp4" in capsys.readouterr().out


def test_segmentation_options_apply_and_notes_are_listed(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(pictures / "film.mp4", [solid((200, 0, 0))] * 10 + [solid((0, 0, 200))] * 10, rate=10)
    (pictures / "film.srt").write_text("broken\n")
    result = run_json(capsys, "index", str(pictures), "--segment", "shots", "--clip-shortest", "0.5")
    assert (result["videos"], result["clips"]) == (4, 5)
    [noted] = result["notes"]
    assert noted["file"] == str(pictures / "film.mp4")
    assert noted["note"].startswith("film.srt:1: time: 'broken'")
    assert main(["index", str(pictures), "--segment", "shots", "--clip-shortest", "9"]) == 2
    assert "shortest: 9.0" in capsys.readouterr().err


def test_indexing_continues_after_an_interrupt(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vitascope.cli.output.ProgressBar.update", interrupt)
        assert main(["index", str(pictures)]) == 130
    Image.fromarray(np.full((64, 64, 3), (250, 250, 250), np.uint8)).save(pictures / "white.png")
    capsys.readouterr()
    result = run_json(capsys, "index", str(pictures))
    assert result["resumed"] == ["1"]
    assert result["videos"] == 4
    assert result["failed"] == 0


def test_resumed_job_with_missing_files_is_counted_correctly(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(steps: object, done: float, total: int, note: str = "") -> None:
        if done == total:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vitascope.cli.output.ProgressBar.update", interrupt)
        assert main(["index", str(pictures)]) == 130
    for name in ("red.png", "green.png"):
        (pictures / name).unlink()
    capsys.readouterr()
    assert main(["index", str(pictures)]) == 0
    assert capsys.readouterr().out.startswith("3 added, 0 skipped: collection videos has 3 videos")
    result = run_json(capsys, "index", str(pictures))
    assert (result["files"], result["added"], result["skipped"]) == (1, 0, 1)


def test_columns_and_metadata_can_be_filtered(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "list.csv").write_text("file,name,year\nred.png,The red one,2024\nnothing.png,,\nred.png,,\n")
    options = ["--path-column", "file", "--title-column", "name", "--metadata", "site=north"]
    result = run_json(capsys, "index", str(pictures / "list.csv"), *options, status=3)
    assert (result["source"]["kind"], result["added"], result["failed"]) == ("list", 1, 1)
    assert result["failures"][0]["file"] == str(pictures / "nothing.png")
    assert main(["index", str(pictures / "list.csv"), *options]) == 3
    assert "0 added, 2 skipped (1 already indexed, 1 not media or repeated)" in capsys.readouterr().out
    search = ["search", "a red thing", "--filter"]
    results = run_json(capsys, *search, '{"year": {"gte": 2024}, "site": "north"}')["results"]
    assert [result["video"]["title"] for result in results] == ["The red one"]
    assert results[0]["video"]["metadata"] == {"site": "north", "year": 2024}
    assert run_json(capsys, *search, '{"year": {"lt": 2024}}')["results"] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["index", "no-such-folder"], "no-such-folder"),
        (["index", ".", "--metadata", "year"], "KEY=VALUE"),
        (["index", ".", "--watch-delete"], "watch-delete: only valid with --watch"),
        (
            ["index", ".", "--segment", "shots", "--clip-length", "5"],
            "--clip-length: only valid with --segment auto or windows or subtitles",
        ),
        (["index", "s3://bucket/a/", "--watch"], "a folder was expected"),
        (["index", ".", "--watch", "--settle", "0"], "settle: 0"),
        (["index", ".", "--watch", "--max-delete", "-0.5"], "max-delete: -0.5; a ratio from 0 to 1 was expected"),
        (["index", ".", "--watch", "--ray", "auto"], "cannot be combined with --watch"),
        (["index", ".", "--ray-actors", "2"], "ray-actors: only valid with --ray"),
        (["index", ".", "--ray", "ray://127.0.0.1:10001"], "HOST:PORT, auto or local was expected"),
        (["search", "a dog", "--filter", "{"], "not JSON"),
        (["search", "a dog", "--collection", "other"], "vitascope index FOLDER"),
    ],
)
def test_errors_of_index_and_search_name_the_argument(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_index_with_an_unusable_model_leaves_no_collection(pictures: Path, tmp_path: Path, options: list[str]) -> None:
    assert main(["index", str(pictures), "--engine", "none", *options]) == 2
    assert not (tmp_path / "data" / "collections" / "videos").exists()


def test_search_creates_no_data_folder(tmp_path: Path) -> None:
    assert main(["search", "a dog", "--data", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()


def test_collection_of_another_bundle_is_rejected(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, "index", str(pictures))
    other = make_small_bundle(tmp_path / "other", seed=1)
    for arguments in (["index", str(pictures)], ["search", "a red thing"]):
        assert main([*arguments, "--bundle", str(other)]) == 2
        assert "bundle" in capsys.readouterr().err


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a shell with `vitascope`, a folder with a video, and two collections."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "vitascope"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vitascope "$@"\n')
    command.chmod(0o755)
    (tmp_path / "film.mp4").touch()
    for name in ("videos", "cameras", ".new-1"):
        (tmp_path / "data" / "collections" / name).mkdir(parents=True)
    return {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "PS1": "> ",
        "VITASCOPE_DATA_DIR": "nowhere",
    }


LINES = {
    "vitascope se": {"search", "serve"},
    "vitascope collection re": {"read-text", "reembed", "restore"},
    "vitascope search 'a dog' --col": {"--collection"},
    "vitascope search 'a dog' --group ": {"clip", "event", "video"},
    "vitascope search 'a dog' --data data --collection ": {"videos", "cameras"},
    "vitascope collection drop --data data v": {"videos"},
    "vitascope index fi": {"film.mp4"},
}


def test_bash_completes_commands_options_choices_files_and_collections(
    shell_environment: dict[str, str], tmp_path: Path
) -> None:
    script = r"""
eval "$(vitascope completion bash)"
function=$(complete -p vitascope | sed 's/.*-F \([^ ]*\) .*/\1/')
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9
    $function vitascope
    (IFS=/; echo "${COMPREPLY[*]}")
done
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        input="".join(f"{line}\n" for line in LINES),
        cwd=tmp_path,
        env=shell_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    offered = [{word.strip() for word in line.split("/")} for line in done.stdout.splitlines()]
    assert dict(zip(LINES, offered, strict=True)) == LINES


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "vitascope" in script.read_text()
    assert subprocess.run([find_tool(shell), "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "ftp://127.0.0.1", "nonsense"])
def test_unreachable_service_offers_no_names(server: str) -> None:
    assert collection_names(parsed_args=argparse.Namespace(server=server)) == {}
