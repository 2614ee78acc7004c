from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.small_bundle import make_small_bundle
from tests.training.data.corpus_files import GREEN, RED, movie, pictogram_packages, picture, write_shard, write_tar
from training.data import pictograms
from training.data.corpus import CorpusError, split_of
from training.data.packed import open_packed
from training.data.prepare import CORPORA, READERS, main, prepare
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main as vitascope

CORPUS_NAMES = (
    *("flickr8k", "daquar", "scenes", "coco", "flickr30k", "vqa", "image_shards", "msrvtt", "msrvtt_official"),
    *("msvd", "hdvila100m", "video_shards", "subtitled", "pictograms", "stamps", "imagenet200"),
    *("esc10", "fsdd", "spoken_digits", "instruments", "sound_scenes", "stamp_sounds", "snli_ve"),
    *("nlvr2", "flickr30k_entities", "refcoco", "lsmdc", "tgif_action", "tgif_transition", "tgif_frameqa"),
)
PICTURES = (
    *("flickr8k", "daquar", "coco", "flickr30k", "vqa", "image_shards", "stamps", "imagenet200", "stamp_sounds"),
    *("snli_ve", "nlvr2", "flickr30k_entities", "refcoco"),
)
SOUNDS = ("esc10", "fsdd", "spoken_digits", "instruments")


def flickr8k_shards(folder: Path) -> Path:
    for split in ("train", "val", "test"):
        samples = {f"{split}{n}": (picture(), {"captions": [f"picture {n} of {split}"]}) for n in range(2)}
        write_shard(folder / f"{split}-00000.tar", samples)
    return folder


def test_every_split_is_packed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = flickr8k_shards(tmp_path / "shards")
    assert main(["flickr8k", "--source", str(source), "--out", str(tmp_path / "packed")]) == 0
    for split in ("train", "val", "test"):
        packed = open_packed(tmp_path / "packed" / "flickr8k" / split)
        assert [e.captions for e in packed.examples] == [(f"picture {n} of {split}",) for n in range(2)]
        assert packed.info["licence"].startswith("research and education")
    assert "flickr8k/val: 2 packed, 0 skipped" in capsys.readouterr().err


def test_one_split_can_be_packed_alone(tmp_path: Path) -> None:
    source = flickr8k_shards(tmp_path / "shards")
    main(["flickr8k", "--source", str(source), "--out", str(tmp_path / "packed"), "--splits", "val"])
    assert [folder.name for folder in (tmp_path / "packed" / "flickr8k").iterdir()] == ["val"]


def test_a_split_into_which_nothing_falls_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = next(str(number) for number in range(100) if split_of(str(number)) == "train")
    write_tar(tmp_path / "shards" / "00000.tar", {f"{key}.jpg": picture(), f"{key}.txt": b"a red thing"})
    options = ["image_shards", "--source", str(tmp_path / "shards"), "--out", str(tmp_path / "packed")]
    assert main(options) == 0
    assert "image_shards/val: left out: " in capsys.readouterr().err
    assert [folder.name for folder in (tmp_path / "packed" / "image_shards").iterdir()] == ["train"]
    write_tar(tmp_path / "shards" / "00000.tar", {})
    assert main(options) == 1
    assert "no split of image_shards has media" in capsys.readouterr().err


def test_daquar_is_packed_with_its_questions(tmp_path: Path) -> None:
    record = {"questions": [{"question": "what is on the desk?", "answers": ["book", "lamp"]}]}
    write_shard(tmp_path / "test-00000.tar", {"image1": (picture(), record)})
    done = prepare("daquar", tmp_path, tmp_path / "packed", ["test"])
    assert done["daquar/test"]["count"] == 1
    (example,) = open_packed(tmp_path / "packed" / "daquar" / "test").examples
    assert example.questions[0].answers == ("book", "lamp")


def test_generated_scenes_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "scenes" / "train"
    folder.mkdir(parents=True)
    movie(folder / "a.mp4", [RED, GREEN])
    (folder / "examples.jsonl").write_text(json.dumps({"key": "a", "media": "a.mp4", "captions": ["it turns green"]}))
    prepare("scenes", tmp_path / "scenes", tmp_path / "packed", ["train"])
    packed = open_packed(tmp_path / "packed" / "scenes" / "train")
    assert packed.arrays["low"].shape == (1, 6, 112, 112, 3)
    first, last = packed.arrays["low"][0, [0, 5]].mean(axis=(1, 2))
    np.testing.assert_allclose([first, last], [RED, GREEN], atol=12)


def test_pictograms_become_a_corpus_of_stills_and_one_of_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = pictogram_packages(tmp_path / "npm")
    monkeypatch.setattr(pictograms, "fetch_packages", lambda cache: packages)
    done = prepare("pictograms", tmp_path / "npm", tmp_path / "packed", ["val"])
    assert {name: part["count"] for name, part in done.items()} == {
        "pictogram_stills/val": 2,
        "pictogram_videos/val": 1,
    }
    videos = open_packed(tmp_path / "packed" / "pictogram_videos" / "val")
    np.testing.assert_allclose(videos.arrays["low"][0, [0, 5]].mean(axis=(1, 2)), [RED, GREEN], atol=3)
    assert "@lobehub/fluent-emoji-anim-1@1.0.0" in videos.info["source"]


def test_of_pictograms_the_videos_alone_have_several_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = pictogram_packages(tmp_path / "npm")
    monkeypatch.setattr(pictograms, "fetch_packages", lambda cache: packages)
    prepare("pictograms", tmp_path / "npm", tmp_path / "packed", ["val"], clips=2)
    stills, videos = (open_packed(tmp_path / "packed" / f"pictogram_{kind}" / "val") for kind in ("stills", "videos"))
    assert (stills.clips, videos.clips) == (1, 2)
    np.testing.assert_allclose(videos.frames("high")[0, :, 0].mean(axis=(1, 2)), [RED, GREEN], atol=3)


def test_a_missing_source_fails_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daquar", "--source", str(tmp_path), "--out", str(tmp_path / "packed")]) == 1
    assert "one of these was expected" in capsys.readouterr().err


def subtitled_folder(folder: Path, *names: str) -> Path:
    """Real videos of 1.4 s with two cues each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        movie(folder / name, [RED, GREEN], frames_each=7)
        cues = "1\n00:00:00,000 --> 00:00:00,700\nred\n\n2\n00:00:00,700 --> 00:00:01,400\ngreen\n"
        (folder / name).with_suffix(".srt").write_text(cues)
    return folder


def name_in(split: str, stem: str = "talk") -> str:
    return next(name for name in (f"{stem}{n}.mp4" for n in range(999)) if split_of(name) == split)


def coco_folder(folder: Path, images: int = 2, missing: int = 0) -> Path:
    """Pictures of train2014 with a sentence each, of which the last ones are missing."""
    names = {n: f"COCO_train2014_{n:012d}.jpg" for n in range(images)}
    content = {
        "images": [{"id": n, "file_name": name} for n, name in names.items()],
        "annotations": [{"image_id": n, "caption": f"sentence of {n}"} for n in names],
    }
    (folder / "train2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_train2014.json").write_text(json.dumps(content))
    for name in list(names.values())[: images - missing]:
        (folder / "train2014" / name).write_bytes(picture(GREEN))
    return folder


def test_every_corpus_is_offered_with_an_example_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(CORPORA) == set(CORPUS_NAMES)
    with pytest.raises(SystemExit):
        vitascope(["prepare", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in CORPUS_NAMES)
    assert "\n  vitascope prepare subtitled --source ~/Talks --name talks --out data/packed\n" in shown


@pytest.mark.parametrize("corpus", READERS)
def test_a_corpus_states_its_origin_and_stores_one_frame_of_a_picture(corpus: str, tmp_path: Path) -> None:
    reader = READERS[corpus]
    frames = [1, 1] if corpus in PICTURES else [] if corpus in SOUNDS else [1, 6]
    assert [stream.frames for stream in reader.streams] == frames
    assert all((reader.origin.source, reader.origin.licence, reader.origin.split_rule))
    with pytest.raises(CorpusError, match=str(tmp_path)):
        list(reader.read(tmp_path, "train"))


def test_coco_is_packed_with_its_sentences(tmp_path: Path) -> None:
    done = prepare("coco", coco_folder(tmp_path / "coco"), tmp_path / "packed", ["train"])
    assert done["coco/train"]["count"] == 2
    packed = open_packed(tmp_path / "packed" / "coco" / "train")
    assert [example.captions for example in packed.examples] == [("sentence of 0",), ("sentence of 1",)]
    assert packed.arrays["low"].shape == (2, 1, 112, 112, 3)
    assert packed.info["source"].startswith("COCO captions")


def test_two_folders_of_subtitled_videos_are_kept_apart_by_name(tmp_path: Path) -> None:
    for name in ("talks", "lessons"):
        source = subtitled_folder(tmp_path / name, name_in("train", name))
        options = ["--source", str(source), "--name", name, "--splits", "train", "--out", str(tmp_path / "packed")]
        assert main(["subtitled", *options]) == 0
    assert sorted(folder.name for folder in (tmp_path / "packed").iterdir()) == ["lessons", "talks"]
    packed = open_packed(tmp_path / "packed" / "talks" / "train")
    assert packed.info["corpus"] == "talks"
    assert [example.captions for example in packed.examples] == [("red green",)]
    first, last = packed.arrays["low"][0, [0, 5]].mean(axis=(1, 2))
    np.testing.assert_allclose([first, last], [RED, GREEN], atol=12)


def test_several_clips_of_each_span_are_packed_when_asked_for(tmp_path: Path) -> None:
    source = subtitled_folder(tmp_path / "talks", name_in("train"))
    out = tmp_path / "packed"
    assert main(["subtitled", "--source", str(source), "--out", str(out), "--splits", "train", "--clips", "2"]) == 0
    packed = open_packed(out / "subtitled" / "train")
    assert packed.clips == 2
    colors = packed.frames("low").mean(axis=(2, 3, 4))
    np.testing.assert_allclose(colors, [[RED, GREEN]], atol=12)


def test_the_length_of_subtitled_clips_can_be_asked_for(tmp_path: Path) -> None:
    source = subtitled_folder(tmp_path / "talks", name_in("train"))
    out = tmp_path / "packed"
    options = ["--source", str(source), "--out", str(out), "--splits", "train"]
    assert main(["subtitled", *options, "--shortest", "0.5", "--longest", "0.6"]) == 0
    examples = open_packed(out / "subtitled" / "train").examples
    assert [(e.captions[0], e.attributes["start"], e.attributes["end"]) for e in examples] == [
        ("red", 0.0, 0.6),
        ("green", 0.7, 1.3),
    ]


def test_a_split_without_a_subtitled_video_is_left_out_unless_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = subtitled_folder(tmp_path / "talks", name_in("train"), name_in("test"))
    arguments = ["subtitled", "--source", str(source), "--out", str(tmp_path / "packed")]
    assert main(arguments) == 0
    assert sorted(folder.name for folder in (tmp_path / "packed" / "subtitled").iterdir()) == ["test", "train"]
    assert "subtitled/val: left out:" in capsys.readouterr().err
    assert main([*arguments, "--splits", "val"]) == 1
    assert "error: " in capsys.readouterr().err
    (tmp_path / "packed" / "subtitled" / "val").mkdir()
    assert main(arguments) == 0
    described = " ".join(capsys.readouterr().err.split())
    assert "of an earlier run stays as it is" in described


def test_more_may_be_skipped_when_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = coco_folder(tmp_path / "coco", images=4, missing=1)
    arguments = ["coco", "--source", str(source), "--out", str(tmp_path / "packed"), "--splits", "train"]
    assert main(arguments) == 1
    assert "1 of 4 media could not be used, at most 1.0% may fail" in capsys.readouterr().err
    assert main([*arguments, "--max-skipped", "0.2"]) == 1
    assert not (tmp_path / "packed" / "coco" / "train").exists()
    assert main([*arguments, "--max-skipped", "0.25"]) == 0
    assert "coco/train: 3 packed, 1 skipped" in capsys.readouterr().err
    assert len(open_packed(tmp_path / "packed" / "coco" / "train")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictograms", "--name", "emoji"], "--name: 'emoji'; `pictograms` gives two corpora"),
        (["coco", "--name", "../other"], "--name: '../other'; the name of a folder in --out was expected"),
        (["coco", "--name", ""], "--name: ''; the name of a folder"),
        (["msvd", "--shortest", "2"], "--shortest: 2 with msvd; only `subtitled` cuts clips"),
        (["pictograms", "--longest", "9"], "--longest: 9 with pictograms; only `subtitled` cuts clips"),
        (["subtitled", "--shortest", "20"], "clips of 20 to 16 s"),
        (["coco", "--clips", "2"], "--clips: 2 with coco; pictures and sounds have one clip, 1 was expected"),
        (["scenes", "--clips", "0"], "--clips: 0; at least 1 was expected"),
        (["coco", "--workers", "-1"], "--workers: -1; at least 1 was expected"),
        (["coco", "--max-skipped", "5"], "--max-skipped: 5; 0 to 1 was expected"),
        (["coco", "--max-skipped", "nan"], "--max-skipped: nan; 0 to 1 was expected"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--source", str(tmp_path), "--out", str(tmp_path / "packed")]) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path).rglob("*.json*"))


def test_an_unknown_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus: 'imagenet'; one of \('flickr8k'"):
        prepare("imagenet", tmp_path, tmp_path / "packed")


def test_a_corpus_can_be_packed_as_a_bundle_sees_it(tmp_path: Path, small_bundle: Path) -> None:
    folder = tmp_path / "scenes" / "train"
    folder.mkdir(parents=True)
    movie(folder / "a.mp4", [RED, GREEN])
    (folder / "examples.jsonl").write_text(json.dumps({"key": "a", "media": "a.mp4", "captions": ["it turns green"]}))
    prepare("scenes", tmp_path / "scenes", tmp_path / "packed", ["train"], seen_by=[small_bundle])
    packed = open_packed(tmp_path / "packed" / "scenes" / "train")
    assert list(packed.streams) == Bundle.open(small_bundle).manifest.streams
    shards = flickr8k_shards(tmp_path / "shards")
    prepare("flickr8k", shards, tmp_path / "packed", ["val"], seen_by=[small_bundle])
    still = open_packed(tmp_path / "packed" / "flickr8k" / "val")
    assert [(s.name, s.frames, s.height) for s in still.streams] == [("high", 1, 64), ("low", 1, 32)]


def test_two_bundles_that_mean_different_frames_by_one_name_are_refused(tmp_path: Path, small_bundle: Path) -> None:
    other = make_small_bundle(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["streams"][1]["frames"] = 2
    (other / "manifest.json").write_text(json.dumps(manifest))
    source, out = tmp_path / "scenes", tmp_path / "packed"
    options = ["--source", str(source), "--out", str(out), "--seen-by", str(small_bundle), "--seen-by", str(other)]
    assert vitascope(["prepare", "scenes", *options]) == 2
    assert not out.exists()
