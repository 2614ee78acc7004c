"""Benchmarks of the service: `python -m benchmarks.service PART [options]`.

Server, load and references share the machine. A missed bound is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks import run_main
from benchmarks.service.load import Checks
from vitascope.cli.options import default_bundle

COMPARED = ("embedding", "search", "peers", "answers", "decode")
MODULES = {
    "embedding": "comparison",
    "search": "comparison",
    "command": "comparison",
    "peers": "peers",
    "answers": "media",
    "decode": "media",
    "overload": "overload",
    "contention": "contention",
    "soak": "soak",
    "page": "page",
}
"""Modules by part; each has a function ``run_PART(args, checks)``."""
LOADS = ("uploads", "deletes")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="part", required=True, metavar="PART")

    def add(name: str, description: str, seconds: float | None = None) -> argparse.ArgumentParser:
        part = subparsers.add_parser(name, help=description, description=description, allow_abbrev=False)
        part.add_argument("--bundle", type=Path, default=default_bundle(), metavar="FOLDER")
        part.add_argument("--threads", type=int, default=0, help="threads of the model (default: one per core)")
        if seconds is not None:
            part.add_argument(
                "--seconds", type=float, default=seconds, help="duration of each load (default: %(default)s)"
            )
        return part

    compare = add("compare", f"all of: {', '.join(COMPARED)}", 10)
    add("embedding", "text embedding over HTTP, compared with the text graph alone", 10)
    search = add("search", "search over HTTP, compared with encoding and FAISS alone, and when overloaded", 10)
    peers = add("peers", "one text per request, compared with a plain FastAPI handler and other services", 10)
    add("answers", "from a film on disk to the answer, compared with decoding and inference alone")
    add("decode", "twelve frames of a film, compared with other decoders")
    for part in (compare, search):
        part.add_argument("--clips", type=int, default=100_000, help="clips in the collection (default: %(default)s)")
    for part in (compare, peers):
        part.add_argument("--bound", type=float, default=0.25, metavar="S", help="99th percentile of the latency")

    overload = add("overload", "goodput, latency and liveness at a multiple of the capacity", 20)
    overload.add_argument("--overload", type=float, default=8.0, help="rate of the flood as a multiple of the capacity")
    overload.add_argument("--rerank", type=int, default=0, help="clips that every search reranks")
    overload.add_argument("--clips", type=int, default=10_000, help="clips in the collection (default: %(default)s)")
    overload.add_argument("--proxy", choices=["nginx"], help="send the load through nginx with deploy/nginx/nginx.conf")

    contention = add("contention", "latency of interactive requests during uploads and deletes, and without", 120)
    contention.add_argument("--load", choices=LOADS, action="append", help="background load (default: each in turn)")
    contention.add_argument(
        "--uploads", type=int, default=110, metavar="NUMBER", help="films that are uploaded at once"
    )
    contention.add_argument("--rate", type=float, default=1.0, help="requests of each kind per second")

    soak = add("soak", "memory, open files and threads under every kind of load at once", 600)
    soak.add_argument("--pause", type=float, default=0.05, metavar="S", help="pause between two rounds of a user")

    command = add("command", "`vitascope search` from process start to the first result (bound: 1 s)")
    command.add_argument("--clips", type=int, default=1000, help="clips in the collection (default: %(default)s)")
    command.add_argument("--starts", type=int, default=10, metavar="NUMBER", help="of each kind (default: %(default)s)")

    page = add("page", "time until the page shows the results of a search, in Chromium (bound: 100 ms)")
    page.add_argument("--searches", type=int, default=20, metavar="NUMBER")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a part; return 1 if a bound was missed."""
    args = build_parser().parse_args(arguments)
    checks = Checks()
    for part in COMPARED if args.part == "compare" else (args.part,):
        module = importlib.import_module(f"benchmarks.service.{MODULES[part]}")
        getattr(module, f"run_{part}")(args, checks)
    return 1 if checks.missed else 0


if __name__ == "__main__":
    run_main(main)
