"""Environment of the pages: a checkout, videos with the names that they use, a running service, and substitutes for
other servers and public models."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from demo.scenes import write_videos
from index.collection_store import CollectionStore
from model_export.targets.triton import TritonOptions, write_repository
from service.settings import Settings
from tests.docs.pages import ROOT
from tests.docs.terminal import Terminal
from tests.index.milvus_server import MilvusUnderTest
from tests.media_files import write_color_video, write_picture
from tests.service.running import serving
from tests.small_bundle import make_small_bundle, write_manifest
from tests.sockets import reserved_port
from tests.vitascope.integrations.kserve import protocol_server
from training.data.scenes.generate import make_corpus
from vitascope.bundle.bundle import Bundle
from vitascope.client import Client
from vitascope.model import Model

SHARED = ("clip.mp4", "beach.mp4", "dog.mp4", "film.mp4", "talk.mp4")
SUBTITLES = "".join(
    f"{number}\n00:00:0{2 * number},000 --> 00:00:0{2 * number + 2},000\n{text}\n\n"
    for number, text in enumerate(("Now the engine is taken apart.", "The gears come out.", "And here they are."))
)
CURL = "fail-with-body\nconnect-timeout = 10\n"
"""Content of .curlrc: an HTTP error is an error of the command."""
BUNDLE = ROOT / "bundles" / "hd-vila-tiny"


def prepare(folder: Path) -> None:
    """Write the files that the pages use; small ones, in about a second."""
    checkout, home = folder / "checkout", folder / "home"
    for subfolder in (checkout / "bundles", home / "Videos", home / "Films", home / "Talks", home / "keys"):
        subfolder.mkdir(parents=True)
    for name in ("videos/2024", "videos/holidays", "videos/talks", "mnt/cameras", "mnt/backups", "srv/models", "tmp"):
        (folder / name).mkdir(parents=True)
    (home / ".curlrc").write_text(CURL)
    _link_checkout(checkout)

    scenes = write_videos(home / "Videos")
    shutil.copytree(home / "Videos", checkout / ".demo" / "videos")
    for name, scene in zip(SHARED, scenes, strict=False):
        shutil.copy(scene, checkout / name)
    for number, path in enumerate(("videos/2024/sea.mp4", "videos/2024/hill.mp4", "videos/a.mp4", "videos/b.mp4")):
        shutil.copy(scenes[4 + number], folder / path)
    shutil.copy(scenes[8], folder / "mnt/cameras/7.mp4")
    write_color_video(home / "Films" / "film.mp4", (220, 20, 20), 4.0, rate=5)
    talks = (home / "Talks" / "engine.mp4", folder / "videos/talks/gears.mp4", folder / "videos/holidays/hike.mp4")
    for number, talk in enumerate(talks):
        write_color_video(talk, (90, 60 + 60 * number, 120), 9.0, rate=5)
        talk.with_suffix(".srt").write_text(SUBTITLES)
    random = np.random.default_rng(0)
    for name in ("beach.jpg", "dog.jpg", "photo.jpg", "room.jpg"):
        write_picture(checkout / name, random.integers(0, 256, (90, 160, 3), np.uint8))
    (checkout / "beach.srt").write_text(SUBTITLES)
    (checkout / "captions.txt").write_text("a red square moves left\na star rotates\n")
    (folder / "videos" / "films.csv").write_text("file,title,year\na.mp4,The first,2024\nb.mp4,,2023\n")
    with tarfile.open(folder / "videos" / "shard-000000.tar", "w") as shard:
        for member, content in (("ring.mp4", scenes[10].read_bytes()), ("ring.txt", b"a white ring grows")):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    for number, (model, version) in enumerate((("talks", "1"), ("talks", "2"), ("films", "3"))):
        write_small_model(folder / "srv" / "models" / f"{model}-{version}", number, model, version)
    for number, (model, version) in enumerate(
        (("talks", "3"), *((n, "1") for n in ("one", "two", "mine", "better"))), 3
    ):
        write_small_model(checkout / "bundles" / (f"{model}-3" if version == "3" else model), number, model, version)


def generate_scenes(folder: Path) -> None:
    """Generate a corpus with four clips per split, for the pages about data."""
    with contextlib.redirect_stdout(io.StringIO()):
        make_corpus(folder / "checkout" / "data" / "scenes", {"train": 4, "val": 4, "test": 4})


def _link_checkout(checkout: Path) -> None:
    """Link to the entries of the repository, so that pages do not write there."""
    for entry in ROOT.iterdir():
        if entry.name not in ("bundles", "vitascope-data", ".git", ".venv", ".demo", "runs", "data", "dist"):
            (checkout / entry.name).symlink_to(entry)
    (checkout / "bundles" / BUNDLE.name).symlink_to(BUNDLE)
    (checkout / ".venv").symlink_to(sys.prefix)


SMALL_TASKS = ("retrieval", "matching", "answering", "moments", "captioning", "grounding", "entailment")


def write_small_model(folder: Path, seed: int, name: str, version: str) -> None:
    """Write the bundle of ``tests.small_bundle`` with another name."""
    make_small_bundle(folder, seed=seed, version=version, tasks=SMALL_TASKS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("files")
    write_manifest(folder, {**manifest, "name": name})


@contextmanager
def open_terminal(folder: Path, port: int = 0, servers: Mapping[str, str] = MappingProxyType({})) -> Iterator[Terminal]:
    """Yield a terminal in a prepared folder, with a service of the default bundle without keys and three collections.

    The service ends when a page starts one itself, on the same data and port.

    Args:
        port: Port of the service; 0: any free one, which stays reserved between two services.
        servers: URLs in pages, and their replacements.
    """
    prepare(folder)
    with ExitStack() as stack, ExitStack() as service:
        port = port or stack.enter_context(reserved_port())
        settings = Settings(
            bundle=BUNDLE,
            bundles_root=folder / "srv" / "models",
            data_dir=folder / "checkout" / "vitascope-data",
            allowed_roots=[folder / "videos", folder / "home", folder / "mnt"],
            allow_unauthenticated=True,
            url_fetch="on",
            webhooks="on",
            decode_processes=1,
            shutdown_delay=0.0,
            threads=1,
            device="cpu",
            port=port,
            log_level="error",
        )
        running = service.enter_context(serving(settings))
        client = stack.enter_context(Client(str(running.client.base_url)))
        add_collections(client, sorted((folder / "home" / "Videos").iterdir()))
        library = stack.enter_context(CollectionStore(folder / "library"))
        model = Model.open(folder / "srv" / "models" / "films-3", threads=1, device="cpu")
        collection = library.create("films", model)
        names = {"client": client, "library": library, "model": model, "collection": collection}
        terminal = Terminal(folder, port, names, stop_service=service.close, servers=servers)
        stack.callback(terminal.close)
        yield terminal


def add_collections(client: Client, videos: Sequence[Path]) -> None:
    """Create the collections that the pages use: two with videos, one empty."""
    for name, files in {"videos": videos[:3], "films": videos[3:4], "talks": []}.items():
        client.create_collection(name)
        for video in files:
            client.add_video(name, video, metadata={"year": 2024})


MILVUS = "http://milvus:19530"
TRITON = "http://127.0.0.1:8003"
REVISION = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
"""Revision of the models in the cache of the hub."""


@contextmanager
def substitute_servers(folder: Path, text: str) -> Iterator[dict[str, str]]:
    """Start substitutes for the servers named in a page, and yield their URLs by the URL in the page.

    Milvus Lite replaces Milvus; a small server of the Open Inference Protocol with the default bundle replaces Triton.
    """
    with ExitStack() as stack:
        urls = {}
        if MILVUS in text:
            milvus = MilvusUnderTest(folder / "milvus")
            stack.callback(milvus.end)
            urls[MILVUS] = milvus.url
        if TRITON in text:
            write_repository(Bundle.open(BUNDLE), folder / "repository", TritonOptions(device="cpu"))
            urls[TRITON] = stack.enter_context(protocol_server.serving(folder / "repository")).url
        yield urls


def publish_models(checkout: Path, home: Path) -> None:
    """Write small models with random weights in place of public ones, to the cache of the hub and the checkout."""
    import torch

    from tests.model_export import public_models
    from tests.model_export.released_models import clip_vip

    hub = {
        "openai/clip-vit-base-patch32": public_models.make_clip,
        "Salesforce/blip-vqa-base": public_models.make_blip_answers,
        "Salesforce/blip-image-captioning-base": public_models.make_blip_captions,
        "dandelin/vilt-b32-finetuned-vqa": public_models.make_vilt_answers,
    }
    for name, make in hub.items():
        cached = home / ".cache" / "huggingface" / "hub" / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(REVISION)
        make(cached / "snapshots" / REVISION)
    public_models.make_siglip(checkout / "models" / "siglip-base-patch16-224")
    torch.save(clip_vip(), checkout / "pretrain_clipvip_base_32.pt")
    words = checkout / "clip-vit-base-patch32"
    words.mkdir()
    public_models.clip_tokenizer().backend_tokenizer.model.save(str(words))
