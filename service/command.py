"""`vitascope serve`: run the HTTP service. Arguments override settings of the environment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitascope.cli.options import default_bundle, default_data

EPILOG = """\
All other settings are environment variables; see docs/settings.md. For example:
  VITASCOPE_BUNDLES='["/models/two"]'      additional models
  VITASCOPE_MAX_VIDEO_BYTES=17179869184    maximum size of media files
  VITASCOPE_ALLOWED_HOSTS='["search.lan"]' accepted Host headers

Requests need an API key; `vitascope keys create` creates one.

examples:
  vitascope serve
  vitascope serve --no-keys
  vitascope serve --no-keys --root ~/Videos
  vitascope serve --port 9000 --data ~/vitascope-data
  VITASCOPE_MAX_VIDEO_BYTES=17179869184 vitascope serve --root /mnt/videos --root /mnt/cameras
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--host", metavar="ADDRESS", help="address to listen on (VITASCOPE_HOST; default: 127.0.0.1)")
    add("--port", type=int, metavar="N", help="port to listen on; 0: any free port (VITASCOPE_PORT; default: 8000)")
    add("--bundle", type=Path, metavar="FOLDER", help=f"model bundle (VITASCOPE_BUNDLE; default: {default_bundle()})")
    add("--data", type=Path, metavar="FOLDER", help=f"data folder (VITASCOPE_DATA_DIR; default: {default_data()})")
    add(
        "--root",
        action="append",
        dest="roots",
        type=Path,
        metavar="FOLDER",
        help="folder whose files may be indexed and played, besides `incoming` in the data folder; may be repeated "
        "(VITASCOPE_ALLOWED_ROOTS; default: none, and all folders with --no-keys)",
    )
    add("--no-keys", action="store_true", help="accept requests without API keys; only on a loopback address")
    add("--threads", type=int, metavar="N", help="threads of the model (default: one per core)")
    add("--device", choices=("auto", "cpu", "cuda", "tensorrt"), help="device of the model (default: auto)")
    add(
        "--engine",
        metavar="ENGINE",
        help="onnxruntime, or kserve:http://HOST:PORT of a server with the graphs; see docs/triton.md "
        "(VITASCOPE_ENGINE; default: onnxruntime)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    # Imported here: --help works without the web framework.
    from service.run import serve
    from service.settings import read_settings

    setting_names = {"data": "data_dir", "roots": "allowed_roots"}
    options = ("host", "port", "bundle", "data", "roots", "threads", "device", "engine")
    values = {option: getattr(args, option) for option in options if getattr(args, option) is not None}
    settings = {setting_names.get(option, option): value for option, value in values.items()}
    if args.no_keys:
        settings["allow_unauthenticated"] = True
    serve(read_settings(**settings))
    return {"served": True}


COMMANDS = {"serve": (add_arguments, run, lambda result, console: None)}
