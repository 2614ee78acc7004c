"""The `vitascope` command: argument parsing, dispatch to subcommands, output and exit statuses.

Each subcommand is a module with ``COMMANDS = {name: (add_arguments, run, show)}``: ``add_arguments(parser)``,
``run(args) -> dict`` and, optionally, ``show(result, console)``, which prints the result as text; without it the result
is printed as a key-value table. With ``--json`` only the dict is printed on standard output. Modules are imported when
their subcommand is used.

Exit statuses: 0 success; 1 verification failed (``verified`` in the result is false); 2 user error, one line on
standard error; 3 some files failed (``failed`` or ``held_videos`` in the result is not 0); 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from vitascope.errors import StorageError, VitascopeError
from vitascope.extras import EXTRA_BY_PACKAGE, missing_package_message
from vitascope.text_format import escape_controls
from vitascope.version import installed_version

if TYPE_CHECKING:
    from rich.console import Console

Result = dict[str, Any]
AddArguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], Result]
Show = Callable[[Result, "Console"], None]
Commands = dict[str, tuple[AddArguments, Run] | tuple[AddArguments, Run, Show]]
"""Type of the ``COMMANDS`` of a module."""

EXIT_OK, EXIT_VERIFY_FAILED, EXIT_USER_ERROR, EXIT_PARTIAL, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
PATH_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
)
"""Errors of the system about files and folders that are reported in one line; any other is a defect."""


@dataclass(frozen=True)
class CommandSpec:
    """Module and summary of a subcommand."""

    module: str
    summary: str


COMMANDS = {
    "index": CommandSpec("index.cli.index", "index videos and images into a collection"),
    "search": CommandSpec("index.cli.search", "search a collection by text, file or clip"),
    "video": CommandSpec("index.cli.video", "list, show, edit or delete videos of a collection"),
    "jobs": CommandSpec("index.cli.jobs", "list, show, pause, resume, retry, cancel or follow indexing jobs"),
    "collection": CommandSpec(
        "index.cli.collection", "create, list, export, import, back up, restore or drop collections"
    ),
    "backup": CommandSpec("index.cli.backup", "back up or restore a whole data folder"),
    "orphans": CommandSpec("index.cli.orphans", "list or remove media files that nothing refers to"),
    "score": CommandSpec("vitascope.cli.score", "score how well captions describe a file"),
    "ask": CommandSpec("vitascope.cli.ask", "answer a question about a file"),
    "moments": CommandSpec("vitascope.cli.moments", "find the spans of a video in which sentences are true"),
    "entailment": CommandSpec("vitascope.cli.entailment", "classify whether a file entails or contradicts sentences"),
    "caption": CommandSpec("index.cli.caption", "write captions of the clips of files"),
    "ground": CommandSpec("vitascope.cli.ground", "find the object that a phrase describes in a picture or frame"),
    "chapters": CommandSpec("index.cli.chapters", "divide a video into chapters with titles"),
    "transcribe": CommandSpec("vitascope.cli.transcribe", "transcribe the speech of a file"),
    "read-text": CommandSpec("vitascope.cli.read_text", "recognise the text on screen in a video or picture"),
    "serve": CommandSpec("service.command", "run the HTTP service with the page"),
    "mcp": CommandSpec("vitascope.cli.mcp", "run a Model Context Protocol server for assistants"),
    "keys": CommandSpec("service.keys_command", "create, list or revoke API keys"),
    "models": CommandSpec("vitascope.cli.models", "list, add or remove models of a running service, set the default"),
    "completion": CommandSpec("vitascope.cli.completion", "print a shell completion script"),
    "bundle": CommandSpec("vitascope.cli.bundle", "inspect, verify and sign model bundles"),
    "prepare": CommandSpec("training.cli", "fetch or generate training data"),
    "train": CommandSpec("training.cli", "pre-train a model by a recipe"),
    "finetune": CommandSpec("training.cli", "fine-tune a checkpoint for a task"),
    "adapt": CommandSpec("model_export.cli.adapt", "continue training on your own videos and subtitles"),
    "distil": CommandSpec("model_export.cli.optimize", "distil a bundle into a smaller video encoder"),
    "reduce": CommandSpec("model_export.cli.optimize", "derive a cheaper variant of a bundle without training"),
    "evaluate": CommandSpec("training.cli", "evaluate a checkpoint or bundle on a test split"),
    "inspect": CommandSpec("training.cli", "visualise attention and the visual dictionary of a checkpoint"),
    "prepare-moments": CommandSpec("training.moments.cli", "embed videos with annotated moments for training"),
    "train-moments": CommandSpec("training.moments.cli", "train a head that finds moments of videos by sentences"),
    "evaluate-moments": CommandSpec("training.moments.cli", "evaluate a moment head or bundle beside baselines"),
    "export": CommandSpec("model_export.cli.export", "export a checkpoint as a verified bundle"),
    "triton": CommandSpec("model_export.cli.targets", "write a Triton model repository, or check a server"),
    "tensorrt": CommandSpec("model_export.cli.targets", "convert a bundle for TensorRT, build engines"),
    "optimize": CommandSpec("model_export.cli.optimize", "find the fastest variant of a bundle within a budget"),
}

EPILOG = """\
getting started:
  vitascope index ~/Videos                         index a folder
  vitascope search "a red square moves left"       search it
  vitascope score clip.mp4 "a dog runs" "a cat"    compare captions
  vitascope ask clip.mp4 "what color is the ball?"
  vitascope serve                                  run the HTTP service and web page

Every command has --help with examples, and --json for scripts.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        argv: arguments without the program name; by default those of the process.

    A `VitascopeError`, one of `PATH_ERRORS` or a missing optional package becomes one line on standard error. Any other
    exception is a defect and propagates.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # a completion request of a shell
        from vitascope.cli.completion import complete

        complete(lambda words: build_parser(subcommand_name(words))[0])
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be valid Unicode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except VitascopeError as error:
        print(escape_controls(f"vitascope: {error}"), file=sys.stderr)
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRA_BY_PACKAGE:
            raise
        message = missing_package_message(package, f"`vitascope {subcommand_name(arguments)}`")
        print(f"vitascope: {message}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("vitascope: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()  # the reader (head, less) has exited
        return EXIT_OK
    except OSError as error:
        if error.errno not in PATH_ERRORS:
            raise
        print(escape_controls(f"vitascope: {error.filename or 'writing'}: {error.strerror}"), file=sys.stderr)
        return EXIT_USER_ERROR


def _run(arguments: list[str]) -> int:
    from vitascope.cli.output import print_mapping, print_text_or_json

    parser, show = build_parser(subcommand_name(arguments))
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return EXIT_OK
    result: Result = args.run_command(args)
    try:
        print_text_or_json(result, show or print_mapping, as_json=args.json)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise StorageError(f"standard output: cannot be written: {error.strerror or error}") from error
    if result.get("verified") is False:
        return EXIT_VERIFY_FAILED
    return EXIT_PARTIAL if result.get("failed") or result.get("held_videos") else EXIT_OK


def _discard_output() -> None:
    """Avoid a second error when the interpreter flushes standard output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Parser that accepts `-0.5,1` and `-1e-3` as values, and no abbreviated options. Subparsers inherit the class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A new option would make an abbreviation in a script ambiguous.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        # argparse recognises plain numbers only.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        super().error(escape_controls(message))  # which may name files that a pattern of the shell matches


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help formatter whose column fits the longest command: argparse does not count the indentation of commands."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        self._action_max_length = max(self._action_max_length, 4 + max(map(len, COMMANDS)))


def build_parser(chosen: str | None) -> tuple[argparse.ArgumentParser, Show | None]:
    """Return the parser, and the function that prints the result (None: as a key-value table).

    Only the ``chosen`` subcommand gets its arguments, so that no other module is imported.
    """
    parser = _Parser(
        prog="vitascope",
        description="Search folders of video, score captions and answer questions about clips.",
        epilog=EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    show: Show | None = None
    for name, spec in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=spec.summary,
            description=f"{spec.summary[0].upper()}{spec.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            add_arguments, run, *rest = importlib.import_module(spec.module).COMMANDS[name]
            add_arguments(sub)
            _add_json(sub)
            sub.set_defaults(run_command=run)
            show = rest[0] if rest else None
    return parser, show


def _add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` to a subcommand and its actions, unless it is there."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in nested:
        for sub in action.choices.values():
            _add_json(sub)
    if nested:
        parser.set_defaults(json=False)
    elif "--json" not in parser._option_string_actions:
        parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def subcommand_name(arguments: Sequence[str]) -> str | None:
    """Return the first positional argument, None if there is none."""
    return next((a for a in arguments if not a.startswith("-")), None)


class _Version(argparse.Action):
    """Print the version, which is looked up only then."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"vitascope {installed_version()}")
        parser.exit()
