"""Opening bundles: checksums, paths and manifests."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.chaos import rounds
from tests.small_bundle import AUDIO, CAPTIONS, make_small_bundle, write_manifest
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.describe import reranking_summary
from vitascope.bundle.manifest import Manifest, checksum_of
from vitascope.bundle.onnx_files import external_files
from vitascope.bundle.signing import generate_key
from vitascope.errors import BundleCorrupt, BundleNotFound, BundleUnsupported, BundleUntrusted

DECODER = {**CAPTIONS, "head_width": 4, "vocabulary": 9, "start_ids": [2], "end_id": 3}
FILES = sorted(
    [
        *("MODEL_CARD.md", "answer.onnx", "answers.json", "match.onnx", "parity.json"),
        *("text.onnx", "tokenizer.json", "video.onnx", "weights.bin"),
    ]
)


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_an_intact_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert sorted(bundle.manifest.files) == FILES
    assert bundle.manifest.tasks == ["retrieval", "matching", "answering"]
    assert bundle.answers[:3] == ["red", "green", "blue"]
    assert len(bundle.fingerprint) == 64


def write_checksum(folder: Path) -> None:
    """Write the checksum of the manifest, as an export does."""
    (folder / "manifest.json.sha256").write_text(checksum_of((folder / "manifest.json").read_bytes()))


def test_a_manifest_that_differs_from_its_checksum_is_rejected(folder: Path) -> None:
    write_checksum(folder)
    Bundle.open(folder)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("0.05", "0.06"))
    with pytest.raises(BundleCorrupt, match=r"manifest\.json: its SHA-256 is [0-9a-f]{64}; .*sha256 lists another one"):
        Bundle.open(folder)
    (folder / "manifest.json.sha256").unlink()  # as in bundles of early versions
    assert Bundle.open(folder).manifest.temperature == 0.06


@pytest.mark.parametrize("name", ["manifest.json.sha256", "manifest.json.sig"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_checksum_or_signature_that_is_no_file_is_rejected(
    name: str, make: Callable[[Path], None], folder: Path
) -> None:
    write_checksum(folder)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises((BundleCorrupt, BundleUntrusted), match=f"{name}: not a regular file"):
        Bundle.open(folder, [generate_key().public])


def test_no_damaged_file_is_parsed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flip bits and truncate at random offsets of random files."""
    write_checksum(folder)
    names = [*FILES, "manifest.json", "manifest.json.sha256"]
    original = {name: (folder / name).read_bytes() for name in names}
    parsed: list[object] = []
    monkeypatch.setattr("vitascope.bundle.bundle.external_files", lambda path: parsed.append(path) or set())
    monkeypatch.setattr("vitascope.bundle.bundle.json.loads", recording(json.loads, parsed))
    rng = random.Random(3)
    for _ in range(rounds(200, 1000)):
        name = rng.choice(names)
        position = rng.randrange(len(original[name]))
        flipped = bytearray(original[name])
        flipped[position] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(original[name][:position] if rng.random() < 0.3 else flipped)
        with pytest.raises(BundleCorrupt, match=f"{name.removesuffix('.sha256')}: "):
            Bundle.open(folder)
        (folder / name).write_bytes(original[name])
    assert set(parsed) == {original["manifest.json"]}
    assert Bundle.open(folder).answers


def recording(call: Callable[[Any], Any], seen: list[object]) -> Callable[[Any], Any]:
    def recorded(argument: Any) -> Any:
        seen.append(argument)
        return call(argument)

    return recorded


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_rejected(name: str, folder: Path) -> None:
    path = folder / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt, match=f"{name}: {size - 1} bytes; the manifest lists {size} bytes"):
        Bundle.open(folder)
    path.unlink()
    with pytest.raises(BundleCorrupt, match=f"{name}: missing"):
        Bundle.open(folder)


def test_unlisted_files_are_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("unrelated")
    Bundle.open(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "manifest.json"])
def test_links_that_leave_the_bundle_are_rejected(name: str, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(BundleCorrupt, match=rf"{name}: a link that leaves the bundle"):
        Bundle.open(folder)
    linked = tmp_path / "linked"
    linked.symlink_to(make_small_bundle(tmp_path / "other"))
    Bundle.open(linked)  # the bundle's own folder may be a link


@pytest.mark.parametrize("name", ["Weights.BIN", "./weights.bin", "MANIFEST.json", "Text.onnx"])
def test_names_that_differ_in_case_or_spelling_only_are_rejected(name: str, folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["files"][name] = manifest["files"]["weights.bin"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleCorrupt, match=f"'{name}' differ in case or spelling alone"):
        Bundle.open(folder)


def test_weights_behind_a_linked_folder_are_rejected(folder: Path, tmp_path: Path) -> None:
    """`more/../weights.bin` is the verified file only if `more` is not a link."""
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    shutil.copy(folder / "weights.bin", tmp_path / "outside" / "weights.bin")
    (folder / "more").symlink_to(tmp_path / "outside" / "deep")
    model = onnx.load(folder / "video.onnx", load_external_data=False)
    _redirect(model.graph, "more/../weights.bin")
    (folder / "video.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder, manifest_of(folder))
    with pytest.raises(BundleCorrupt, match=r"video\.onnx: graph 'video' reads weights from"):
        Bundle.open(folder)


def test_a_missing_bundle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="no such folder"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(BundleNotFound, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"schema_version": 2}, BundleUnsupported, "schema_version 2; 1 was expected"),
        ({"tasks": ["dancing"]}, BundleUnsupported, r"tasks\.0: 'dancing'; Input should be 'retrieval'"),
        ({"temprature": 0.1}, BundleCorrupt, "temprature: 0.1; Extra inputs are not permitted"),
        ({"temperature": -1}, BundleCorrupt, "temperature: -1; Input should be greater than 0"),
        ({"vector_width": "wide"}, BundleCorrupt, "vector_width: 'wide'; Input should be a valid integer"),
        ({"graphs": {}}, BundleCorrupt, "graphs: .* missing"),
        ({"tokenizer": "other.json"}, BundleCorrupt, r"\['other\.json'\] used but not listed"),
        ({"answers": None}, BundleCorrupt, "needs an answer vocabulary"),
        ({"mirrored_view": 0}, BundleCorrupt, "mirrored_view: 0; Input should be greater than 0"),
    ],
)
def test_invalid_manifests_are_rejected(
    change: dict[str, Any], error: type[Exception], reason: str, folder: Path
) -> None:
    write_manifest(folder, {**manifest_of(folder), **change})
    with pytest.raises(error, match=reason) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"manifest"', "[" * 100_000, "\x00\xff"])
def test_manifests_that_are_not_json_objects_are_rejected(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "a/../../b", "a\\b"])
def test_listed_paths_outside_the_bundle_are_rejected(name: str, folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleCorrupt, match="leaves the bundle"):
        Bundle.open(folder)


def _redirect(graph: onnx.GraphProto, location: str) -> None:
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "notes.txt", "./../../x", "", "loop", "a\0b"])
def test_graphs_may_read_listed_weights_only(location: str, folder: Path) -> None:
    model = onnx.load(folder / "video.onnx", load_external_data=False)
    _redirect(model.graph, location)
    (folder / "video.onnx").write_bytes(model.SerializeToString())
    manifest = manifest_of(folder)
    write_manifest(folder, manifest)  # updates the hashes, so only the location is wrong
    (folder / "notes.txt").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "loop").symlink_to("loop")
    with pytest.raises(BundleCorrupt, match=r"video\.onnx: graph 'video' reads weights from"):
        Bundle.open(folder)


def test_external_weights_of_nested_graphs_are_found(tmp_path: Path) -> None:
    """Attributes and the graphs of If and Loop have tensors, too."""
    make_small_bundle(tmp_path, external_data=True)
    inner = onnx.load(tmp_path / "text.onnx", load_external_data=False).graph
    _redirect(inner, "../hidden.bin")
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner)
    constant = onnx.helper.make_node("Constant", [], ["k"], value=inner.initializer[0])
    for node in (branch, constant):
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "outer", [], []))
        (tmp_path / "outer.onnx").write_bytes(model.SerializeToString())
        assert external_files(tmp_path / "outer.onnx") == {"../hidden.bin"}
    function = onnx.helper.make_function("local", "f", [], ["k"], [constant], [])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "outer", [], []), functions=[function])
    (tmp_path / "outer.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "outer.onnx") == {"../hidden.bin"}


@pytest.mark.parametrize("data", [b"", b"not a graph at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b\x0b"])
def test_graph_files_that_are_not_onnx_are_rejected(data: bytes, folder: Path) -> None:
    (folder / "text.onnx").write_bytes(data)
    write_manifest(folder, manifest_of(folder))
    with pytest.raises(BundleCorrupt, match=r"text\.onnx: not a readable ONNX graph"):
        Bundle.open(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '["red", 5]', '["red", ""]', "no", "[" * 100_000])
def test_an_answer_vocabulary_that_is_not_a_list_of_strings_is_rejected(text: str, folder: Path) -> None:
    (folder / "answers.json").write_text(text)
    write_manifest(folder, manifest_of(folder))
    with pytest.raises(BundleCorrupt, match=r"answers\.json"):
        Bundle.open(folder)


def write_matrix(folder: Path, array: object) -> None:
    np.save(folder / "matrix.npy", array, allow_pickle=True)
    write_manifest(folder, {**manifest_of(folder), "caption_matrix": "matrix.npy"})


def test_a_caption_matrix_leaves_the_fingerprint_unchanged(folder: Path) -> None:
    before = Bundle.open(folder)
    matrix = np.eye(before.manifest.vector_width, dtype=np.float16)
    write_matrix(folder, matrix)
    after = Bundle.open(folder)
    assert (before.caption_matrix, after.fingerprint) == (None, before.fingerprint)
    assert after.caption_matrix is not None
    np.testing.assert_array_equal(after.caption_matrix, matrix)
    assert after.caption_matrix.dtype == np.float32


@pytest.mark.parametrize(
    "array",
    [
        np.eye(15, dtype=np.float32),
        np.full((16, 16), np.nan, np.float32),
        np.eye(16, dtype=np.int64),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["size", "nan", "dtype", "pickle"],
)
def test_an_invalid_caption_matrix_is_rejected(array: object, folder: Path) -> None:
    write_matrix(folder, array)
    with pytest.raises(BundleCorrupt, match=r"matrix\.npy: "):
        Bundle.open(folder)


def test_no_graph_may_read_weights_from_the_caption_matrix(tmp_path: Path) -> None:
    """Or the fingerprint would not cover these weights."""
    folder = make_small_bundle(tmp_path, external_data=True)
    write_manifest(folder, {**manifest_of(folder), "caption_matrix": "weights.bin"})
    with pytest.raises(BundleCorrupt, match=r"reads weights from 'weights\.bin'; no graph may read them"):
        Bundle.open(folder)
    write_manifest(folder, {**manifest_of(folder), "caption_matrix": "tokenizer.json"})
    with pytest.raises(BundleCorrupt, match=r"weights: \['tokenizer\.json'\]; a file that only the graphs of one task"):
        Bundle.open(folder)


def test_a_caption_matrix_needs_text_embeddings(tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path, tasks=("answering",), free_form_answers=True)
    write_matrix(folder, np.eye(16, dtype=np.float32))
    with pytest.raises(BundleCorrupt, match="null was expected, as vector_width is 0"):
        Bundle.open(folder)


def test_the_fingerprint_covers_what_determines_embeddings(tmp_path: Path) -> None:
    def fingerprint(name: str, card: str = "", notice: str = "", **options: Any) -> str:
        keys = {"metrics", "text_length", "prompts", "matryoshka_dimensions", "mirrored_view"} & set(options)
        manifest = {key: options.pop(key) for key in keys}
        folder = make_small_bundle(tmp_path / name, **options)
        if card:
            (folder / "MODEL_CARD.md").write_text(card)
        if notice:
            (folder / "NOTICE.md").write_text(notice)
        write_manifest(folder, {**manifest_of(folder), **manifest})
        return Bundle.open(folder).fingerprint

    first = fingerprint("first")
    assert fingerprint("again") == first
    assert fingerprint("card", card="# Another card\n") == first
    assert fingerprint("notice", notice="# Whose weights these were\n") == first
    assert fingerprint("metrics", metrics={"recall": 0.5}) == first
    assert fingerprint("weights", seed=1) != first
    assert fingerprint("outside", external_data=True) != fingerprint("both", seed=1, external_data=True)
    tasks = ("retrieval", "matching", "answering", "captioning")
    assert fingerprint("captions", external_data=True, tasks=tasks) == fingerprint("none", external_data=True)
    assert fingerprint("length", text_length=12) != first
    assert fingerprint("dimensions", matryoshka_dimensions=[12, 8]) == first
    assert fingerprint("prompts", prompts={"query": "query: "}) != first
    assert fingerprint("no-prompts", prompts={}) == first
    assert fingerprint("views", mirrored_view=0.75) != first


def test_weights_excluded_from_the_fingerprint_are_read_only_by_caption_graphs(tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path, external_data=True, tasks=("retrieval", "captioning"))
    manifest = manifest_of(folder)
    for file, reason in (
        (
            "weights.bin",
            r"text\.onnx: .* reads weights from 'weights.bin'; only caption_prefill and caption_step may read",
        ),
        (
            "tokenizer.json",
            r"weights: \['tokenizer.json'\]; a file that only the graphs of one task read was expected",
        ),
    ):
        write_manifest(folder, {**manifest, "captions": {**manifest["captions"], "weights": file}})
        with pytest.raises(BundleCorrupt, match=reason):
            Bundle.open(folder)


def test_manifests_of_earlier_versions_keep_their_fingerprint() -> None:
    names = ("MODEL_CARD.md", "parity.json", "text.onnx", "tokenizer.json", "video.onnx")
    manifest = {
        **{"schema_version": 1, "name": "old", "version": "1", "architecture": "clip", "tasks": ["retrieval"]},
        "streams": [{"name": "frames", "frames": 8, "height": 224, "width": 224, "placement": "uniform"}],
        "graphs": {"text": "text.onnx", "video": "video.onnx"},
        "files": {name: {"sha256": f"{number:064x}", "bytes": number} for number, name in enumerate(names)},
        **{"vector_width": 512, "visual_tokens": 8, "visual_width": 512, "text_length": 77, "temperature": 0.01},
        "licence": "MIT",
    }
    fingerprint = "8e63e4bab8eefaed2416d1963451461a0d3e126f07a85cd7f4b680876ec0d278"  # of version 0.2.1
    assert Manifest.model_validate(manifest).fingerprint() == fingerprint


def test_a_bundle_may_have_sound_with_video_or_alone(tmp_path: Path) -> None:
    tasks = ("retrieval", "audio_retrieval")
    both = Bundle.open(make_small_bundle(tmp_path / "both", tasks=tasks))
    assert both.manifest.audio is not None
    assert (both.manifest.audio.samples, both.manifest.audio.tokens, both.manifest.audio.width) == (4000, 2, 16)
    repeated = Bundle.open(make_small_bundle(tmp_path / "fill", tasks=tasks, audio={**AUDIO, "fill": "repeat"}))
    assert repeated.fingerprint != both.fingerprint
    sound = Bundle.open(make_small_bundle(tmp_path / "sound", tasks=["audio_retrieval"], audio={**AUDIO, "tokens": 0}))
    assert json.loads(sound.manifest.model_dump_json())["audio"] == {**AUDIO, "name": "audio", "tokens": 0, "width": 0}
    assert list(sound.graph_spec("audio")[1]) == ["vector"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": None}, "audio: null with graphs"),
        ({"graphs": {"text": "text.onnx"}, "tasks": ["audio_retrieval"]}, r"graphs: \['audio'\] missing"),
        ({"streams": [], "visual_tokens": 0}, "0 streams, 0 and 16; sizes above 0 were expected"),
        (
            {"graphs": {"text": "text.onnx", "audio": "audio.onnx"}, "tasks": ["audio_retrieval"]},
            "2 streams, 2 and 16; 0",
        ),
        ({"vector_width": 0, "tasks": ["audio_retrieval"]}, "the task 'audio_retrieval' needs vectors"),
        ({"audio": {**AUDIO, "width": 0}}, "tokens, width: 2 and 0; both or neither"),
        ({"audio": {**AUDIO, "width": 16, "seconds": 1e-5}}, "less than one sample"),
        ({"audio": {**AUDIO, "width": 16, "sample_rate": 100}}, "audio.sample_rate: 100; Input should be greater than"),
        ({"moments": {"window_seconds": 1.0}}, "moments: set with graphs"),
        ({"tasks": ["moments"]}, r"graphs: \['moments'\] missing"),
        ({"captions": DECODER}, r"captions: set with graphs \['audio', 'text', 'video'\]"),
        ({"captions": {**DECODER, "end_id": 9}}, "start_ids, end_id: 9; less than the vocabulary, 9"),
    ],
)
def test_streams_and_graphs_must_agree(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path, tasks=("retrieval", "audio_retrieval"))
    write_manifest(folder, {**manifest_of(folder), **changes})
    with pytest.raises(BundleCorrupt, match=message):
        Bundle.open(folder)


def test_default_values_of_later_fields_are_neither_written_nor_fingerprinted(folder: Path) -> None:
    before = manifest_of(folder)
    bundle = Bundle.open(folder)
    written = json.loads(bundle.manifest.model_dump_json())
    assert not {"audio", "moments", "captions", "logit_bias", "reranking", "prompts"} & set(written)
    assert not {"similarity_scale", "similarity_bias"} & set(written["calibration"])
    assert all(set(s) == {"name", "frames", "height", "width", "placement", "fit"} for s in written["streams"])
    old_keys = {key: before[key] for key in ("graphs", "text_length")}
    prose = {"MODEL_CARD.md", "parity.json"}
    parts = {
        **old_keys,
        "files": {name: entry["sha256"] for name, entry in before["files"].items() if name not in prose},
        "streams": [{"fit": "stretch", **stream} for stream in before["streams"]],
    }
    assert bundle.fingerprint == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    first, *others = before["streams"]
    write_manifest(folder, {**before, "streams": [first | {"resample": "bicubic"}, *others], "logit_bias": -10.0})
    public = Bundle.open(folder)
    assert public.fingerprint != bundle.fingerprint
    assert json.loads(public.manifest.model_dump_json())["streams"][0]["resample"] == "bicubic"
    assert public.manifest.logit_bias == -10.0
    write_manifest(folder, {**before, "streams": [first, *others[:-1], others[-1] | {"track": 1}]})
    assert Bundle.open(folder).manifest.streams[-1].track == 1
    assert Bundle.open(folder).fingerprint not in (bundle.fingerprint, public.fingerprint)
    write_manifest(folder, {**before, "reranking": {"candidates": 20}})
    assert Bundle.open(folder).manifest.default_rerank == 20
    assert Bundle.open(folder).fingerprint == bundle.fingerprint, "collections stay usable"
    assert "sound" not in json.loads(Bundle.open(folder).manifest.model_dump_json())["reranking"]


def test_reranking_by_sound_requires_a_match_graph_with_sound(folder: Path, tmp_path: Path) -> None:
    by_sound: dict[str, Any] = {"candidates": 20, "match_weight": 0.5}
    write_manifest(folder, {**manifest_of(folder), "reranking": {"candidates": 0, "sound": by_sound}})
    with pytest.raises(
        BundleCorrupt, match=r"reranking\.sound: null was expected, as the graph .match. does not read sound"
    ):
        Bundle.open(folder)
    tasks, recall = ("retrieval", "audio_retrieval", "matching"), {"0": [60, 90, 95], "20": [80, 98, 99]}
    by_sound["measured"] = {"scenes/val (both)": {"queries": 200, "recall": recall}}
    audio = {**AUDIO, "fused": True}
    heard = make_small_bundle(tmp_path / "heard", tasks=tasks, audio=audio, default_rerank=0, sound_reranking=by_sound)
    summary = reranking_summary(Bundle.open(heard).manifest)
    assert "by pictures and sound rerank the first 20 results by default: on scenes/val (both), R@1 is 20.00" in summary


CORNER = {"fit": "corner", "shortest_edge": 48, "longest_edge": 79, "multiple": 8, "height": 72, "width": 72}


def test_the_size_of_a_corner_stream_follows_its_edges(folder: Path) -> None:
    before = manifest_of(folder)
    first, *others = before["streams"]
    cover = CORNER | {"shows": "cover", "height": 9, "width": 9}
    for changes, message in (
        (CORNER, None),
        (cover, None),
        (CORNER | {"height": 80}, "size: 72x80 pixels; 72x72 was expected"),
        (cover | {"width": 72}, "9x9 was expected"),
        (CORNER | {"longest_edge": 40}, "shortest_edge: 48 and longest_edge: 40"),
        (CORNER | {"shortest_edge": None}, "both were expected"),
        (CORNER | {"fit": "pad", "shortest_edge": None}, "fit 'corner' was expected"),
        ({"fit": "tiles", "multiple": 16}, None),
        ({"fit": "tiles", "multiple": 16, "shows": "cover", "height": 4, "width": 5}, None),
        ({"fit": "tiles", "multiple": 24}, "64x64 pixels with fit 'tiles'; at least 24 each was expected"),
        ({"height": 4}, "at least 8 each"),
    ):
        write_manifest(folder, {**before, "streams": [first | changes, *others]})
        if message is None:
            written = json.loads(Bundle.open(folder).manifest.model_dump_json())["streams"]
            assert written[0] == first | changes
            assert set(written[1]) == {*others[0], "fit"}
            continue
        with pytest.raises(BundleCorrupt, match=message):
            Bundle.open(folder)


def test_a_second_view_needs_streams_that_a_picture_fills(folder: Path) -> None:
    manifest = manifest_of(folder)
    first, *others = manifest["streams"]
    streams = [first | CORNER, *others]
    write_manifest(folder, {**manifest, "streams": streams, "mirrored_view": 0.75})
    with pytest.raises(BundleCorrupt, match=f"does not fill the frames of streams .'{first['name']}'."):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vector_width": 0}, "the task 'retrieval' needs vectors"),
        ({"answers": None}, "needs an answer vocabulary"),
        ({"matryoshka_dimensions": [8, 12]}, "numbers below 16 in descending order were expected"),
        ({"matryoshka_dimensions": [16]}, "numbers below 16"),
    ],
)
def test_tasks_require_embeddings_and_answers(changes: dict[str, Any], message: str, folder: Path) -> None:
    write_manifest(folder, {**manifest_of(folder), **changes})
    with pytest.raises(BundleCorrupt, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize("changes", [{"fit": "stretch", "shortest_edge": 256}, {"fit": "crop", "shortest_edge": 8}])
def test_a_shortest_edge_below_the_crop_is_rejected(changes: dict[str, Any], folder: Path) -> None:
    before = manifest_of(folder)
    first, *others = before["streams"]
    write_manifest(folder, {**before, "streams": [first | changes, *others]})
    with pytest.raises(BundleCorrupt, match="shortest_edge"):
        Bundle.open(folder)
