"""Bars while an upload, a job or an operation takes long: in a terminal (on standard error) and in notebooks.

Nothing is drawn elsewhere, and rich is imported only where a bar is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitascope.client.response_types import Job, Operation

if TYPE_CHECKING:
    from rich.progress import Progress

UploadProgress = bool | Callable[[int, int], None]
"""True: a bar. A function: called with the bytes that have gone and all of them."""


@contextmanager
def shown_upload(name: str, progress: UploadProgress) -> Iterator[Callable[[int, int], None]]:
    """What is to be told how many bytes of the file ``name`` have gone, and of how many."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield lambda sent, size: None
    else:
        with _line(name) as line:

            def show(sent: int, size: int) -> None:
                # Looking at it may take the service longer than the way took.
                line(name if sent < size else f"{name}: sent", sent, size, f"{sent / 1e6:.1f}/{size / 1e6:.1f} MB")

            yield show


@contextmanager
def shown_job(job_id: str, progress: bool) -> Iterator[Callable[[Job], None]]:
    """What is to be given the job whenever it has changed."""
    if not progress:
        yield lambda job: None
        return
    with _line(f"job {job_id}") as line:

        def show(job: Job) -> None:
            failed = job["counts"]["failed"] + job["counts"]["quarantined"]
            remark = f", {failed} failed" if failed else ""
            # It has no files until they have been listed.
            line(
                f"job {job_id}: {job['state']}{remark}",
                job["progress"] * job["total"],
                job["total"] or None,
                f"{job['done']}/{job['total']}, {job['progress']:.0%}",
            )

        yield show


@contextmanager
def shown_operation(operation_id: str, progress: bool) -> Iterator[Callable[[Operation], None]]:
    """What is to be given the operation whenever it has changed."""
    if not progress:
        yield lambda operation: None
        return
    with _line(f"operation {operation_id}") as line:

        def show(operation: Operation) -> None:
            name = f"{operation['kind']} of {operation['collection']}: {operation['state']}"
            line(name, operation["progress"], 1.0, f"{operation['progress']:.0%}")

        yield show


_lock = threading.Lock()
_shown: Progress | None = None
_lines = 0


@contextmanager
def _line(name: str) -> Iterator[Callable[[str, float, float | None, str], None]]:
    """A line of its own. All that are under way at a time share one display, which would else be drawn over itself.

    Gives what sets its name, how much is done, of how much, and the words for that.
    """
    global _shown, _lines
    with _lock:
        if _shown is None:
            _shown = _display()
            _shown.start()
        display, _lines = _shown, _lines + 1
    task = display.add_task(name, total=None, amount="")
    try:
        yield lambda name, done, total, amount: display.update(
            task, description=name, completed=done, total=total, amount=amount
        )
    finally:
        display.stop_task(task)
        with _lock:
            _lines -= 1
            if _lines == 0:
                display.stop()
                _shown = None


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    name = TextColumn("{task.description}", markup=False)  # of a file: anything may be in it
    amount = TextColumn("{task.fields[amount]}", markup=False)
    is_seen = console.is_terminal or console.is_jupyter
    return Progress(name, BarColumn(), amount, TimeRemainingColumn(), console=console, disable=not is_seen)
