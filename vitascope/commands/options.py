"""Options that several subcommands share, and the places that are used when nothing is named."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vitascope.errors import InvalidInput

DEFAULT_COLLECTION = "videos"


def default_bundle() -> Path:
    """VITASCOPE_BUNDLE, else the bundle that the checkout ships."""
    named = os.environ.get("VITASCOPE_BUNDLE")
    return Path(named) if named else Path(__file__).parents[2] / "bundles" / "hd-vila-tiny"


def default_data() -> Path:
    """VITASCOPE_DATA_DIR, else `vitascope-data` in the current folder."""
    return Path(os.environ.get("VITASCOPE_DATA_DIR") or "vitascope-data")


def default_vectors() -> str:
    """VITASCOPE_VECTORS, else `faiss`: where the vectors of new collections are searched."""
    return os.environ.get("VITASCOPE_VECTORS") or "faiss"


def collections_folder(data: Path) -> Path:
    """Where in a data folder the command and the service keep their collections."""
    return data / "collections"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        type=Path,
        default=default_bundle(),
        metavar="FOLDER",
        help="model bundle (VITASCOPE_BUNDLE; default: %(default)s)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=default_data(),
        metavar="FOLDER",
        help="where collections live (VITASCOPE_DATA_DIR; default: %(default)s)",
    )


def add_collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--collection",
        default=DEFAULT_COLLECTION,
        metavar="NAME",
        help="collection to work on (default: %(default)s)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads for the model (default: one per core)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "tensorrt"),
        default="auto",
        help="where the graphs run (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        default=default_engine(),
        metavar="ENGINE",
        help="onnxruntime, or kserve:http://HOST:PORT of a server that has the graphs, see docs/triton.md "
        "(VITASCOPE_ENGINE; default: %(default)s)",
    )


def default_engine() -> str:
    """VITASCOPE_ENGINE, else `onnxruntime`: what runs the model's graphs."""
    return os.environ.get("VITASCOPE_ENGINE") or "onnxruntime"


def add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        metavar="URL",
        help="ask a running service (http://127.0.0.1:8000) instead of opening the model and the data here",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model`` beside ``--server``; ``check_model`` refuses it without."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="with --server: one of its models, by name, name@version or fingerprint (default: its default)",
    )


def check_model(args: argparse.Namespace) -> None:
    """Raise InvalidInput where ``--model`` is given and no ``--server``."""
    if getattr(args, "model", None) is not None and args.server is None:
        raise InvalidInput(f"--model: {args.model!r} goes with --server; --bundle FOLDER was expected")
