"""`vitascope collection` in a data folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.index.milvus_server import MilvusUnderTest
from tests.media_files import solid, write_picture
from tests.small_bundle import make_small_bundle
from vitascope.cli.main import main


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the small bundle and a temporary data folder by default."""
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(make_small_bundle(tmp_path / "bundle")))
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A red and a green picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, color in (("red", (220, 10, 10)), ("green", (10, 220, 10))):
        write_picture(folder / f"{name}.png", solid(color))
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status = main([*arguments, "--json"])
    output = capsys.readouterr()
    assert status == 0, output.err
    result: dict[str, Any] = json.loads(output.out)
    return result


def red_results(capsys: pytest.CaptureFixture[str], collection: str) -> list[Any]:
    results = run_json(capsys, "search", "a red thing", "--collection", collection)["results"]
    return [(result["video"]["title"], result["fused"]) for result in results]


def test_collection_is_backed_up_exported_restored_and_imported(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_json(capsys, "collection", "list")["collections"] == []
    run_json(capsys, "index", str(pictures))
    best = red_results(capsys, "videos")
    assert best[0][0] == "red"

    backup, plain, whole = (str(tmp_path / name) for name in ("b", "plain", "whole"))
    assert run_json(capsys, "collection", "backup", "videos", backup)["bytes"] == Path(backup).stat().st_size
    root = ["--root", str(tmp_path / "elsewhere"), "--root", str(pictures)]
    assert run_json(capsys, "collection", "restore", backup, "restored", *root)["videos"] == 2
    assert run_json(capsys, "collection", "export", "videos", plain)["clips"] == 2
    run_json(capsys, "collection", "export", "videos", whole, "--tokens", "--thumbnails")
    monkeypatch.setenv("VITASCOPE_ALLOWED_ROOTS", json.dumps([str(pictures)]))
    assert run_json(capsys, "collection", "import", whole, "imported")["clips"] == 2
    assert run_json(capsys, "collection", "import", plain, "without-tokens")["token_encoding"] == "int8"
    assert red_results(capsys, "restored") == red_results(capsys, "imported") == best
    # Without tokens there is no fusion score, and the order is that of similarity.
    assert red_results(capsys, "without-tokens") == [("red", None), ("green", None)]

    assert main(["collection", "drop", "videos"]) == 2
    assert "holds 2 videos, 2 clips, which would be lost; --yes was expected" in capsys.readouterr().err
    assert run_json(capsys, "collection", "drop", "videos", "--yes")["videos"] == 2
    listed = run_json(capsys, "collection", "list")["collections"]
    assert [entry["name"] for entry in listed] == ["imported", "restored", "without-tokens"]
    assert all(entry["videos"] == 2 and entry["bytes"] > 0 for entry in listed)


def test_a_damaged_collection_can_be_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_json(capsys, "collection", "create", "broken")
    (tmp_path / "data" / "collections" / "broken" / "catalogue.sqlite3").write_bytes(b"no database" * 1000)
    assert main(["collection", "drop", "broken"]) == 2
    assert "broken cannot be read (" in capsys.readouterr().err
    assert main(["collection", "drop", "broken", "--yes"]) == 0
    assert capsys.readouterr().out == "collection broken deleted\n"
    assert run_json(capsys, "collection", "list")["collections"] == []


def test_a_wrong_setting_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", "create", "videos", "--read-text=-3"]) == 2
    before = run_json(capsys, "collection", "create", "videos", "--index-kind", "flat")
    for wrong in (["--stemming", "german"], ["--read-text=-3"], ["--transcribe=whisper-smal"]):
        assert main(["collection", "set", "videos", "--index-kind", "hnsw", "--read-text=2", *wrong]) == 2
    assert "transcribe: 'whisper-smal': no such folder; 'pocketsphinx' or a folder" in capsys.readouterr().err
    after = run_json(capsys, "collection", "show", "videos")
    assert (after["index_kind"], after["read_text"]) == (before["index_kind"], before["read_text"]) == ("flat", None)


def test_a_relative_speech_model_is_stored_as_an_absolute_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    created = run_json(capsys, "collection", "create", "videos", "--transcribe=model")
    changed = run_json(capsys, "collection", "set", "videos", "--transcribe=./model")
    assert created["transcribe"] == changed["transcribe"] == str(tmp_path / "model")


def test_media_of_restored_collections_must_be_below_allowed_roots(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = pictures / "red.png"
    run_json(capsys, "index", str(picture))
    backup, export = str(tmp_path / "b"), str(tmp_path / "export")
    run_json(capsys, "collection", "backup", "videos", backup)
    run_json(capsys, "collection", "export", "videos", export)
    monkeypatch.setenv("VITASCOPE_ALLOWED_ROOTS", '["/videos"]')
    rows = (("restore", backup, f"{backup}: table videos: "), ("import", export, "videos.parquet: "))
    for action, source, row in rows:
        assert main(["collection", action, source, "again"]) == 2
        error = capsys.readouterr().err
        assert f"{row}row 1: path: {str(picture)!r} leads to {str(picture)!r}, outside the folders" in error
        assert "(/videos); --root FOLDER, or VITASCOPE_ALLOWED_ROOTS, allows another" in error
    monkeypatch.setenv("VITASCOPE_ALLOWED_ROOTS", "/videos")
    assert main(["collection", "restore", backup, "again"]) == 2
    assert "VITASCOPE_ALLOWED_ROOTS: '/videos'; a JSON list of folders" in capsys.readouterr().err
    assert [entry["name"] for entry in run_json(capsys, "collection", "list")["collections"]] == ["videos"]


def test_text_output_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", "list"]) == 0
    assert capsys.readouterr().out == "No collections\n"
    create = ["collection", "create", "small", "--token-encoding", "float16", "--dimensions", "12"]
    assert main([*create, "--stemming", "none"]) == 0
    assert "collection small created: 12 dimensions, token encoding float16" in capsys.readouterr().out
    assert main(["collection", "backup", "small", str(tmp_path / "b")]) == 0
    assert f"collection small backed up to {tmp_path / 'b'}: " in capsys.readouterr().out
    assert main(["collection", "transcribe", "small", "--model", "nowhere"]) == 2
    assert "speech model: 'nowhere': no such folder" in capsys.readouterr().err
    assert main(["collection", "set", "small", "--index-kind", "hnsw"]) == 0
    # Until there is enough for a graph.
    assert capsys.readouterr().out == "collection small: index kind hnsw, flat in use; stemming: none\n"
    assert main(["collection", "set", "small", "--stemming", "english"]) == 0
    assert capsys.readouterr().out == "collection small: index kind hnsw, flat in use\n"
    (tmp_path / "data" / "collections" / "broken").mkdir()
    (tmp_path / "data" / "collections" / "broken" / "catalogue.sqlite3").write_text("x" * 200)
    assert main(["collection", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not a database" in lines[1]  # one that cannot be opened does not hide the others
    assert lines[2].split()[:3] == ["small", "0", "0"]
    assert "hnsw (flat)" in lines[2]


def test_vectors_can_be_stored_in_milvus(
    tmp_path: Path,
    pictures: Path,
    milvus: MilvusUnderTest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_json(capsys, "collection", "create", "named", "--vectors", milvus.url)["vectors"] == milvus.url
    monkeypatch.setenv("VITASCOPE_VECTOR_STORE", milvus.url)
    run_json(capsys, "index", str(pictures / "red.png"))
    assert red_results(capsys, "videos")[0][0] == "red"
    backup = str(tmp_path / "backup")
    run_json(capsys, "collection", "backup", "videos", backup)
    run_json(capsys, "collection", "restore", backup, "here", "--vectors", "faiss", "--root", str(tmp_path))
    run_json(capsys, "collection", "create", "too", "--vectors", "faiss")
    listed = {entry["name"]: entry["vectors"] for entry in run_json(capsys, "collection", "list")["collections"]}
    assert listed == {"here": "faiss", "named": milvus.url, "too": "faiss", "videos": milvus.url}
    assert red_results(capsys, "here") == red_results(capsys, "videos")
    assert run_json(capsys, "collection", "drop", "named", "--yes")["left_in_milvus"] == []
    milvus.stop()
    try:
        assert main(["collection", "drop", "videos", "--yes"]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert "collection videos deleted" in output
        assert f"{milvus.url} did not respond; its collection vitascope_" in output
    finally:
        milvus.start()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["list", "--data", "none"], "data: 'none': no such folder; a data folder was expected (`vitascope index"),
        (["list", "--data", __file__], f"data: {__file__!r}: no such folder; a data folder was expected"),
        (["export", "none", "out"], "holds no collections"),
        (["import", "none", "new"], "'none' has no videos.parquet"),
        (["restore", "none", "new"], "'none' does not exist"),
        (["create", "a b"], "collection name: 'a b'"),
        (["create", "new", "--index-kind", "tree"], "index_kind: 'tree'; one of auto, flat, hnsw, ivfpq"),
        (["create", "new", "--stemming", "german"], "stemming: 'german'; one of english, none was expected"),
        (["create", "new", "--token-encoding", "int4"], "token encoding: 'int4'; float16 or int8 was expected"),
        (["create", "new", "--vectors", "milvus"], "vectors: 'milvus'; faiss, a URL such as http://milvus:19530"),
        (["create", "new", "--vectors", "http://127.0.0.1:1"], "http://127.0.0.1:1: Milvus: "),
    ],
)
def test_errors_are_one_line(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vitascope: ")
    assert problem in error
    assert error.count("\n") == 1


def test_reembed_replaces_the_embeddings(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_json(capsys, "index", str(pictures))
    other = str(make_small_bundle(tmp_path / "other", seed=2))
    (pictures / "green.png").rename(tmp_path / "green.png")
    assert main(["collection", "reembed", "videos", "--bundle", other]) == 3
    output = capsys.readouterr().out
    assert "green.png: no such file" in output
    assert "the collection is unchanged" in output
    (tmp_path / "green.png").rename(pictures / "green.png")
    done = run_json(capsys, "collection", "reembed", "videos", "--bundle", other)
    assert (done["switched"], done["embedded"], done["failures"]) == (True, 1, [])
    monkeypatch.setenv("VITASCOPE_BUNDLE", other)
    assert red_results(capsys, "videos")[0][0] == "red"
