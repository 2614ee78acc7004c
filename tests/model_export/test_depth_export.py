"""Packing, training, export and indexing with a model that reads depth maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index.collection_store import CollectionStore
from index.jobs.runner import run_job
from model_export.export import export_checkpoint
from tests.chaos import only_by_chaos
from tests.index.jobs.fixtures import create_folder_job, outcomes
from tests.index.searches import search_hits
from tests.media_files import write_tracks
from tests.once import made_once
from tests.training.small_run import MODEL, recipe, write_tokenizer
from training import checkpoint
from training.data.packed import open_packed, write_packed
from training.data.scenes.generate import ORIGIN, make_clip, read_scenes
from training.initialization import model_config
from training.recipe import Recipe
from training.trainer import train
from vitascope.errors import MediaUnsupported
from vitascope.media.sampling import sample_streams
from vitascope.model import Model

pytestmark = only_by_chaos

COUNTS = {"train": 4, "val": 3}
CLIP = [(0.0, 3.0)]


def made_recipe(tokenizer: Path) -> Recipe:
    dataset: dict[str, Any] = {"corpus": "scenes", "weight": 1.0, "batch_size": 2, "min_crop": 0.8, "jitter": 0.2}
    dataset |= {"flip": True, "objectives": {"itc": 1.0, "itm": 1.0}}
    stage = {"name": "all", "steps": 2, "learning_rate": 1e-3, "datasets": [dataset]}
    return recipe(tokenizer, stages=[stage], answers_from=[], model=MODEL | {"depth": True})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `scenes`, `data`, `checkpoint` and `bundle`."""

    def make(root: Path) -> None:
        plan = made_recipe(write_tokenizer(root / "tokenizer.json"))
        for split, count in COUNTS.items():
            folder = root / "scenes" / split
            folder.mkdir(parents=True)
            lines = [make_clip(folder, 3, split, sound=False, depth=True, index=index) for index in range(count)]
            (folder / "examples.jsonl").write_text("\n".join(lines))
            streams = model_config(plan, answers=0).streams()
            write_packed(root / "data" / "scenes" / split, streams, read_scenes(root / "scenes", split), ORIGIN)
        train(plan, root / "data", root).rename(root / "trained")
        export_checkpoint(root / "trained", root / "bundle", data=root / "data", seed=0, keep_checkpoint=False)

    return made_once(tmp_path_factory, "exported-with-depth", make)


def test_depth_maps_are_packed_as_drawn(root: Path) -> None:
    packed = open_packed(root / "data" / "scenes" / "train")
    maps = np.asarray(packed.frames("depth"))[:, 0, 0]
    assert maps.shape == (4, 32, 32, 3)
    assert (maps == maps[..., :1]).all()
    assert [int(np.median(picture)) for picture in maps] == [0] * 4  # mostly background
    assert {int(picture.max()) for picture in maps} <= set(range(80, 256))


def test_the_bundle_embeds_files_as_the_trained_model(root: Path, tmp_path: Path) -> None:
    model = Model.open(root / "bundle")
    assert [(s.name, s.frames, s.track) for s in model.streams] == [("high", 1, 0), ("low", 2, 0), ("depth", 1, 1)]
    assert "depth: 1 of 32x32 pixels, middle, of video track 1" in (root / "bundle" / "MODEL_CARD.md").read_text()
    report = (root / "bundle" / "parity.json").read_text()
    for inputs in ("random", "real"):
        assert f'"graph": "video",\n   "output": "visual_tokens",\n   "inputs": "{inputs}"' in report
    file, other = (root / "scenes" / "val" / f"00000{number}.mp4" for number in (0, 1))
    embedded = model.embed_video_file(file)
    sampled = sample_streams(file, model.streams, CLIP)
    frames = {name: torch.from_numpy(array[:, None]) for name, array in sampled.items()}
    with torch.no_grad():
        vector, tokens = checkpoint.load(root / "trained").model.eval().encode_video(frames)
    np.testing.assert_allclose(embedded.vectors, vector, atol=0.02)
    np.testing.assert_allclose(embedded.visual_tokens, tokens, atol=0.1)
    mixed = model.embed_video_file(write_tracks(tmp_path / "mixed.mp4", [file, other]))
    assert np.abs(mixed.vectors - embedded.vectors).max() > 1e-3, "another second track is another video"


def test_files_with_depth_are_indexed_and_found_and_others_fail_with_the_reason(root: Path, tmp_path: Path) -> None:
    model = Model.open(root / "bundle")
    films = tmp_path / "films"
    films.mkdir()
    for clip in (root / "scenes" / "val").glob("*.mp4"):
        (films / clip.name).write_bytes(clip.read_bytes())
    write_tracks(films / "flat.mp4", [films / "000000.mp4"])
    with CollectionStore(tmp_path / "library") as library:
        collection = library.create("videos", model)
        job = run_job(collection, model, create_folder_job(collection, films).id)
        reason = "flat.mp4: 1 video track; 2 were expected, as the model reads track 1"
        assert (job.counts.succeeded, job.counts.failed) == (3, 1)
        state, failure = outcomes(collection, job.id)["flat.mp4"]
        assert (state, reason in str(failure)) == ("failed", True)
        hits = search_hits(collection, model, "a red square")
        assert len({hit.hit.video_id for hit in hits}) == 3
        [nearest] = collection.search(model.embed_video_file(films / "000001.mp4").vectors[0], 1)
        assert collection.get_video(nearest.video_id).title == "000001"
        assert nearest.similarity == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(MediaUnsupported, match=reason):
        model.embed_video_file(films / "flat.mp4")
