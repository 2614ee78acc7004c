"""`vitascope serve`: the service, its address and places taken from arguments before the environment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitascope.cli.options import default_bundle, default_data

EPILOG = """\
Everything else is a setting in the environment, with a safe default:
  VITASCOPE_BUNDLES='["/models/two"]'      further models: docs/models.md
  VITASCOPE_MAX_UPLOAD_BYTES=1073741824    and the other limits: see docs/settings.md
  VITASCOPE_ALLOWED_HOSTS='["search.lan"]' names that the service is reached by

Requests need a key: `vitascope keys create` makes one.

examples:
  vitascope serve
  vitascope serve --no-keys --root ~/Videos
  vitascope serve --port 9000 --data ~/vitascope-data
  VITASCOPE_MAX_UPLOAD_BYTES=1073741824 vitascope serve --root /mnt/videos --root /mnt/cameras
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--host", metavar="ADDRESS", help="VITASCOPE_HOST; default: 127.0.0.1")
    parser.add_argument("--port", type=int, metavar="N", help="VITASCOPE_PORT; default: 8000; 0: any free one")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FOLDER",
        help=f"model bundle (VITASCOPE_BUNDLE; default: {default_bundle()})",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help=f"data folder (VITASCOPE_DATA_DIR; default: {default_data()})",
    )
    parser.add_argument(
        "--root",
        action="append",
        dest="roots",
        type=Path,
        metavar="FOLDER",
        help="folder whose videos may be indexed by jobs and played, besides `incoming` in the data folder; may be "
        "repeated (VITASCOPE_ALLOWED_ROOTS)",
    )
    parser.add_argument("--no-keys", action="store_true", help="ask nobody for a key; on 127.0.0.1 only")
    parser.add_argument("--threads", type=int, metavar="N", help="threads for the model (default: one per core)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "tensorrt"), help="where the graphs run")
    parser.add_argument(
        "--engine", metavar="ENGINE", help="VITASCOPE_ENGINE; default: onnxruntime; else kserve:http://HOST:PORT"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    # Here, so that --help needs no web framework.
    from service.run import serve
    from service.settings import read_settings

    names = {"data": "data_dir", "roots": "allowed_roots"}
    keys = ("host", "port", "bundle", "data", "roots", "threads", "device", "engine")
    given = {names.get(key, key): getattr(args, key) for key in keys if getattr(args, key) is not None}
    if args.no_keys:
        given["allow_unauthenticated"] = True
    serve(read_settings(**given))
    return {"served": True}


COMMANDS = {"serve": (add_arguments, run, lambda result, console: None)}
