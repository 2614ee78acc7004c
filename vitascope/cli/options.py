"""Options shared by subcommands, and their defaults."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitascope.cli.completion import COLLECTIONS, complete_collections
from vitascope.errors import InvalidInput

DEFAULT_COLLECTION = "videos"
DEFAULT_SERVER = "http://127.0.0.1:8000"
NOT_WEIGHT = -0.5
"""Weight of a text that results should not fit: of those tried, it ranked drawn scenes and photographs best."""


def default_bundle() -> Path:
    """Return VITASCOPE_BUNDLE, else the bundle that the wheel carries, else that of the source tree."""
    if path := os.environ.get("VITASCOPE_BUNDLE"):
        return Path(path)
    installed = Path(__file__).parents[1] / "default_bundle"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "bundles" / "hd-vila-tiny"


def default_data() -> Path:
    """Return VITASCOPE_DATA_DIR, else `vitascope-data` in the current folder."""
    return Path(os.environ.get("VITASCOPE_DATA_DIR") or "vitascope-data")


def default_vectors() -> str:
    """Return VITASCOPE_VECTOR_STORE, else `faiss`: the vector store of new collections."""
    return os.environ.get("VITASCOPE_VECTOR_STORE") or "faiss"


def default_roots() -> list[Path]:
    """Return VITASCOPE_ALLOWED_ROOTS, the folders that a service may read media files from. Raises InvalidInput."""
    text = os.environ.get("VITASCOPE_ALLOWED_ROOTS") or "[]"
    try:
        roots = json.loads(text)
    except ValueError:
        roots = None
    if not isinstance(roots, list) or not all(isinstance(root, str) and root for root in roots):
        raise InvalidInput(f'VITASCOPE_ALLOWED_ROOTS: {text!r}; a JSON list of folders, as ["/videos"], was expected')
    return [Path(root).expanduser() for root in roots]


def collections_folder(data: Path) -> Path:
    """Return the folder of collections in a data folder."""
    return data / COLLECTIONS


class LocalOnlyAction(argparse.Action):
    """Store a value, and record that it was given: it has no effect on a service."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)
        namespace.local_only_options = [*getattr(namespace, "local_only_options", []), option_string]


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        action=LocalOnlyAction,
        type=Path,
        default=default_bundle(),
        metavar="FOLDER",
        help="model bundle (VITASCOPE_BUNDLE; default: %(default)s)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        action=LocalOnlyAction,
        type=Path,
        default=default_data(),
        metavar="FOLDER",
        help="data folder (VITASCOPE_DATA_DIR; default: %(default)s)",
    )


def add_roots(parser: argparse.ArgumentParser) -> None:
    """Add ``--root``, which may be repeated; None without it: see `default_roots`."""
    parser.add_argument(
        "--root",
        action="append",
        dest="roots",
        type=Path,
        metavar="FOLDER",
        help="folder that may contain the media files, besides `incoming` in the data folder; may be repeated "
        "(default: VITASCOPE_ALLOWED_ROOTS)",
    )


def add_collection(parser: argparse.ArgumentParser) -> None:
    complete_collections(
        parser.add_argument(
            "--collection",
            default=DEFAULT_COLLECTION,
            metavar="NAME",
            help="name of the collection (default: %(default)s)",
        )
    )


def add_device(parser: argparse.ArgumentParser, devices: Sequence[str] = ("auto", "cpu", "cuda")) -> None:
    """Add the options of a model that runs on this machine."""
    parser.add_argument(
        "--threads",
        action=LocalOnlyAction,
        type=int,
        default=0,
        metavar="N",
        help="threads of the model (default: one per core)",
    )
    parser.add_argument(
        "--device",
        action=LocalOnlyAction,
        choices=devices,
        default="auto",
        help="device of the model (default: %(default)s)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    add_device(parser, ("auto", "cpu", "cuda", "tensorrt"))
    parser.add_argument(
        "--engine",
        action=LocalOnlyAction,
        default=default_engine(),
        metavar="ENGINE",
        help="onnxruntime, or kserve:http://HOST:PORT of a server with the graphs; see docs/triton.md "
        "(VITASCOPE_ENGINE; default: %(default)s)",
    )


def default_engine() -> str:
    """Return VITASCOPE_ENGINE, else `onnxruntime`."""
    return os.environ.get("VITASCOPE_ENGINE") or "onnxruntime"


def add_server(parser: argparse.ArgumentParser, default_url: str | None = None) -> None:
    """Add ``--server`` and ``--local``, which `server_url` reads; ``default_url`` is used without both."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--server",
        default=os.environ.get("VITASCOPE_SERVER") or default_url,
        metavar="URL",
        help=f"use a running service (VITASCOPE_SERVER; default: {default_url or 'the data folder'})",
    )
    group.add_argument(
        "--local",
        dest="server",
        action="store_const",
        const=None,
        help="use the data folder instead of VITASCOPE_SERVER",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, which `server_url` rejects without ``--server``."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="with --server: name, name@version or fingerprint of a model (default: the default model of the service)",
    )


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a model that runs on this machine or in a service."""
    add_bundle(parser)
    add_engine(parser)
    add_server(parser)
    add_model(parser)


def server_url(args: argparse.Namespace) -> str | None:
    """Return the URL of the service to use; None for the data folder.

    Raises InvalidInput for an option that would have no effect.
    """
    server: str | None = args.server
    if server is None and getattr(args, "model", None) is not None:
        raise InvalidInput(f"--model: {args.model!r} is only valid with --server; --bundle FOLDER was expected")
    if server is not None and (options := getattr(args, "local_only_options", [])):
        raise InvalidInput(f"{options[0]}: has no effect on {server.rpartition('@')[2]}; --local was expected")
    return server
