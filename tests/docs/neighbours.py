"""Small substitutes for the servers and public models that the pages use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from model_export.targets.triton import TritonOptions, write_repository
from tests.docs.reader import BUNDLE
from tests.index.milvus_server import MilvusUnderTest
from tests.vitascope.integrations.kserve import protocol_server
from vitascope.bundle.bundle import Bundle

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

    from tests.model_export.public_models import make_clip, make_siglip
    from tests.model_export.question_models import make_blip_answers, make_vilt_answers
    from tests.model_export.released_models import clip_vip, clip_words

    hub = {
        "openai/clip-vit-base-patch32": make_clip,
        "Salesforce/blip-vqa-base": make_blip_answers,
        "dandelin/vilt-b32-finetuned-vqa": make_vilt_answers,
    }
    for name, make in hub.items():
        cached = home / ".cache" / "huggingface" / "hub" / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(REVISION)
        make(cached / "snapshots" / REVISION)
    make_siglip(checkout / "models" / "siglip-base-patch16-224")
    torch.save(clip_vip(), checkout / "pretrain_clipvip_base_32.pt")
    words = checkout / "clip-vit-base-patch32"
    words.mkdir()
    clip_words().backend_tokenizer.model.save(str(words))
