"""Options that several subcommands share, and the places that are used when nothing is named."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from vitascope.cli.completers import COLLECTIONS, complete_collections
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
    """VITASCOPE_VECTOR_STORE, else `faiss`: where the vectors of new collections are searched."""
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
    return [Path(root) for root in roots]


def collections_folder(data: Path) -> Path:
    """Where in a data folder the command and the service keep their collections."""
    return data / COLLECTIONS


class LocalOnlyAction(argparse.Action):
    """Stores a value like the usual action, and that it was given: a service would not heed it."""

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
        help="where collections live (VITASCOPE_DATA_DIR; default: %(default)s)",
    )


def add_roots(parser: argparse.ArgumentParser) -> None:
    """``--root``, which may be repeated and is None where it was not given: see ``default_roots``."""
    parser.add_argument(
        "--root",
        action="append",
        dest="roots",
        type=Path,
        metavar="FOLDER",
        help="where media files may lie that the files name, besides `incoming` in the data folder; may be repeated "
        "(default: VITASCOPE_ALLOWED_ROOTS)",
    )


def add_collection(parser: argparse.ArgumentParser) -> None:
    complete_collections(
        parser.add_argument(
            "--collection",
            default=DEFAULT_COLLECTION,
            metavar="NAME",
            help="collection to work on (default: %(default)s)",
        )
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        action=LocalOnlyAction,
        type=int,
        default=0,
        metavar="N",
        help="threads for the model (default: one per core)",
    )
    parser.add_argument(
        "--device",
        action=LocalOnlyAction,
        choices=("auto", "cpu", "cuda", "tensorrt"),
        default="auto",
        help="where the graphs run (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        action=LocalOnlyAction,
        default=default_engine(),
        metavar="ENGINE",
        help="onnxruntime, or kserve:http://HOST:PORT of a server that has the graphs, see docs/triton.md "
        "(VITASCOPE_ENGINE; default: %(default)s)",
    )


def default_engine() -> str:
    """VITASCOPE_ENGINE, else `onnxruntime`: what runs the model's graphs."""
    return os.environ.get("VITASCOPE_ENGINE") or "onnxruntime"


def add_server(parser: argparse.ArgumentParser, otherwise: str | None = None) -> None:
    """``--server`` and ``--local``, which ``server_url`` reads. ``otherwise``: the service that is asked where the
    arguments and the environment name none.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--server",
        default=os.environ.get("VITASCOPE_SERVER") or otherwise,
        metavar="URL",
        help="let a running service (http://127.0.0.1:8000) do it "
        f"(VITASCOPE_SERVER; default: {otherwise or 'it is done here'})",
    )
    group.add_argument(
        "--local", dest="server", action="store_const", const=None, help="do it here, whatever VITASCOPE_SERVER says"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model`` beside ``--server``; ``server_url`` refuses it without."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="with --server: one of its models, by name, name@version or fingerprint (default: its default)",
    )


def server_url(args: argparse.Namespace) -> str | None:
    """The URL of the service that is to do it; None where it is done here.

    Raises InvalidInput for an option that goes with the other way: what is given must not go unheeded.
    """
    server: str | None = args.server
    if server is None and getattr(args, "model", None) is not None:
        raise InvalidInput(f"--model: {args.model!r} goes with --server; --bundle FOLDER was expected")
    if server is not None and (given := getattr(args, "local_only_options", [])):
        raise InvalidInput(f"{given[0]}: says how it is done here, but {server} is to do it; --local was expected")
    return server
