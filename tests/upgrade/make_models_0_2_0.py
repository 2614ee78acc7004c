"""Write ``models_0_2_0.tar.xz``: checkpoints, packed corpora and bundles as version 0.2.0 left them.

Run it with the code of that version (commit 325bd06), with this file and its folder put into it:
``python -m tests.upgrade.make_models_0_2_0``. Imports are those of that version and stay so. Contents of the archive:

    packed/squares/{train,val}        a packed corpus of eight pictures
    runs/hd-vila                      a training run that was stopped in the middle of a stage
    runs/{soho,visual-parsing}        checkpoints of the other systems
    recipe.toml                       the recipe of runs/hd-vila
    bundles/exported                  the bundle of the finished run, signed
    signer.pub, signer.key            the keys that signed it
    recorded.json                     what version 0.2.0 computed with them

Weights are drawn, but few of them differ from zero and those have few values, so that they can be compressed.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from model_export.export import export_checkpoint
from tests.media_files import write_picture
from tests.training.small_run import COLOURS, IMAGE_MODEL, MODEL, STREAMS, write_tokenizer
from training import checkpoint
from training.checkpoint import Checkpoint
from training.curves import read_log
from training.data.example import Example, Negative, Question
from training.data.packed import Media, Origin, open_packed, write_packed
from training.loop import train
from training.models.fused import FusedModel
from training.models.systems import SYSTEMS, build
from training.recipe import read_recipe
from vitascope.command import main as vitascope
from vitascope.model import Model

ARCHIVE = Path(__file__).with_name("models_0_2_0.tar.xz")
TEXTS = ["a red square", "a blue square", "what color is it ?"]
ANSWERS = list(COLOURS)
SMALLER = {"text_width": 16, "text_heads": 2, "text_intermediate": 16, "vocabulary": 24, "max_positions": 16}
HD_VILA = MODEL | SMALLER | {"text_length": 12, "vector_width": 16, "answer_hidden": 8, "temperature": 0.25}
IMAGES = IMAGE_MODEL | SMALLER | {"text_length": 12, "vector_width": 16, "answer_hidden": 8}
GRID = {"grid_height": 2, "grid_width": 2}
SYSTEM_MODELS: dict[str, dict[str, Any]] = {
    "hd-vila": HD_VILA,
    "soho": IMAGES | GRID | {"backbone": "test_resnet", "entries": 8, "frozen_stages": 0},
    "visual-parsing": IMAGES
    | {"grid_height": 4, "grid_width": 4, "swin_width": 8, "swin_depths": [1, 1, 2], "swin_heads": [1, 2, 4]}
    | {"window": 4, "masked_with": 2},
}
STOPPED_AFTER = 4
RECIPE = f"""\
name = "squares"
size = "tiny"
start = "scratch"
precision = "float32"
threads = 1
checkpoint_every = 2
answers_from = ["squares"]

[[stages]]
name = "fusion"
steps = 8
learning_rate = 3e-3
text_scale = 1.0
fused_scale = 1.0
frozen = "stage_one"

[[stages.sources]]
corpus = "squares"
weight = 1.0
batch = 4
group_by = "colour"
objectives = {{ masked_words = 0.5, match = 1.0, answer = 1.0 }}

[model]
{"".join(f"{name} = {json.dumps(value)}{os.linesep}" for name, value in HD_VILA.items())}"""


def make(place: Path) -> dict[str, Any]:
    """Fill ``place``; returns what is recorded. The current folder is ``place``."""
    torch.set_num_threads(1)
    write_corpus(place / "packed", place)
    tokenizer = write_tokenizer(place / "tokenizer.json")
    (place / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(place / "recipe.toml")
    recorded: dict[str, Any] = {"texts": TEXTS, "forward": {}}
    for name, changes in SYSTEM_MODELS.items():
        model = compressible(name, changes)
        begun = recipe.model_copy(update={"system": name, "model": changes})
        checkpoint.save(place / "starts" / name, Checkpoint(model, ANSWERS, begun, tokenizer, step=0))
    for name in ("soho", "visual-parsing"):
        shutil.copytree(place / "starts" / name, place / "runs" / name / "checkpoint")
    run = place / "runs" / "hd-vila"
    train(recipe, place / "packed", run, start_from=place / "starts" / "hd-vila", stop_after=STOPPED_AFTER)
    (run / "curves.png").unlink()
    shutil.copytree(run, place / "finished")
    train(recipe, place / "packed", place / "finished")
    recorded["log"] = read_log(place / "finished" / "log.jsonl")
    recorded["finished"] = forward(place / "finished" / "checkpoint", place / "packed")
    for name in SYSTEM_MODELS:
        recorded["forward"][name] = forward(place / "runs" / name / "checkpoint", place / "packed")
    bundle = export_checkpoint(
        place / "finished" / "checkpoint",
        place / "bundles" / "exported",
        precision="float32",
        data=place / "packed",
        licence="CC0-1.0",
        seed=1,
    )
    sign(place, bundle)
    recorded["bundle"] = answers_of(bundle, place)
    for folder in ("starts", "finished"):
        shutil.rmtree(place / folder)
    tokenizer.unlink()
    return recorded


def compressible(system: str, changes: dict[str, Any]) -> FusedModel:
    """A model most of whose matrices are zero, the rest of a few values; norms and biases of a few values, too."""
    torch.manual_seed(0)
    tiny = SYSTEMS[system].sizes["tiny"](len(ANSWERS))
    model = build(type(tiny).model_validate(tiny.model_dump() | changes))
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim <= 1:
                values.add_(torch.randint(-2, 3, values.shape) / 32)
                continue
            kept = torch.rand(values.shape) < (0.03 if values.numel() > 2000 else 0.5)
            step = float(values.std()) * 3
            power = 2.0 ** round(float(np.log2(step))) if step > 0 else 0.0
            values.copy_(torch.randint(-2, 3, values.shape) * kept * power)
    return model.eval()


def forward(folder: Path, data: Path) -> dict[str, Any]:
    """What the checkpoint in ``folder`` makes of the pictures of the validation split and of ``TEXTS``."""
    held = checkpoint.load(folder)
    model = held.model.eval()
    packed = open_packed(data / "squares" / "val")
    words = tokens_of(held.tokenizer)
    streams = {
        stream.name: torch.from_numpy(np.array(packed.arrays[stream.name]))[:, None].expand(
            -1, -1, stream.frames, -1, -1, -1
        )
        for stream in model.cfg.streams()
    }
    with torch.no_grad():
        vectors, tokens = model.encode_video(streams)
        texts, states = model.encode_text(*words)
        seen = model.see(tokens[:1].repeat(len(TEXTS), 1, 1))
        return {
            "step": held.step,
            "answers": held.answers,
            "config": held.model.cfg.model_dump(mode="json"),
            "video_embeddings": vectors.tolist(),
            "text_embeddings": texts.tolist(),
            "match_logits": model.match_logits(states, words[1], seen).tolist(),
            "answer_logits": model.answer_logits(states, words[1], seen).tolist(),
        }


def tokens_of(tokenizer: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (B, L) of ``TEXTS``."""
    opened = Tokenizer.from_file(str(tokenizer))
    opened.enable_padding()
    encoded = opened.encode_batch(TEXTS)
    return torch.tensor([each.ids for each in encoded]), torch.tensor([each.attention_mask for each in encoded])


def sign(place: Path, bundle: Path) -> None:
    """Sign the bundle with a new key, which stays in ``place``."""
    assert vitascope(["bundle", "keygen", str(place / "signer")]) == 0
    assert vitascope(["bundle", "sign", str(bundle), "--key", str(place / "signer.key"), "--comment", "fixture"]) == 0


def answers_of(bundle: Path, place: Path) -> dict[str, Any]:
    """What the bundle makes of ``TEXTS`` and of a picture."""
    picture = write_picture(place / "picture.png", pixels())
    model = Model.open(bundle, threads=1, device="cpu")
    seen = model.embed_file(picture)
    tokens = seen.visual_tokens.repeat(len(TEXTS), axis=0)
    match = model.match(TEXTS, tokens)
    return {
        "fingerprint": model.bundle.fingerprint,
        "text_embeddings": model.embed_text(TEXTS).tolist(),
        "video_embedding": seen.vectors[0].tolist(),
        "match_probabilities": match.probabilities.tolist(),
        "answers": {each.text: each.probability for each in model.answer(TEXTS[-1:], tokens[:1], top=len(ANSWERS))[0]},
    }


def pixels() -> np.ndarray:
    """A picture with a border between two colours."""
    out = np.zeros((48, 64, 3), np.uint8)
    out[:, :32], out[:, 32:] = COLOURS["red"], COLOURS["blue"]
    return out


def write_corpus(data: Path, folder: Path) -> None:
    """Four pictures of squares on another colour as the corpus `squares`, splits train and val."""
    origin = Origin(source="made for a test", licence="CC0-1.0", split_rule="all")
    for number, split in enumerate(("train", "val")):
        write_packed(data / "squares" / split, STREAMS, examples(folder, split, number), origin)


def examples(folder: Path, split: str, number: int) -> Iterator[tuple[Example, Media]]:
    names = list(COLOURS)
    for i, name in enumerate(names):
        wrong = names[(i + 1 + number) % len(names)]
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[:] = COLOURS[wrong]
        picture[8 + 8 * number : 56, 8:56] = COLOURS[name]
        path = folder / f"{split}-{name}.png"
        Image.fromarray(picture).save(path)
        yield (
            Example(
                key=path.stem,
                captions=(f"a {name} square",),
                questions=(Question("what color is it ?", (name,), "colour"),),
                negatives=(Negative(f"a {wrong} square", 0, 1, "colour"),),
                still=True,
                attributes={"colour": name},
            ),
            path,
        )
        path.unlink()


def write_archive(folder: Path, archive: Path) -> None:
    """Write what is in ``folder`` into a compressed archive, without owners and times."""

    def normalised(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:xz", preset=9) as file:
        for path in sorted(folder.iterdir()):
            file.add(path, path.name, filter=normalised)
    print(archive, archive.stat().st_size, "bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        at = Path(os.path.realpath(folder))
        os.chdir(at)
        recorded = make(at)
        (at / "recorded.json").write_text(json.dumps(recorded, indent=1))
        write_archive(at, ARCHIVE)
