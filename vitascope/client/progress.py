"""Progress bars for uploads, jobs and operations, in terminals (standard error) and notebooks.

rich is imported only when a bar is requested.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitascope.client.response_types import Job, Operation
from vitascope.text_format import escape_controls

if TYPE_CHECKING:
    from rich.progress import Progress

UploadProgress = bool | Callable[[int, int], None]
"""True draws a progress bar; a function is called with the number of bytes sent and in total."""


@contextmanager
def upload_progress(name: str, progress: UploadProgress) -> Iterator[Callable[[int, int], None]]:
    """Yield the function to call with (bytes sent, total bytes) during the upload of the file ``name``."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield lambda sent, size: None
    else:
        with _line(name) as line:

            def show(sent: int, size: int) -> None:
                # The service may process the file for longer than the upload took.
                line(name if sent < size else f"{name}: sent", sent, size, f"{sent / 1e6:.1f}/{size / 1e6:.1f} MB")

            yield show


@contextmanager
def job_progress(job_id: str, progress: bool) -> Iterator[Callable[[Job], None]]:
    """Yield the function to call with each new state of a job."""
    if not progress:
        yield lambda job: None
        return
    with _line(f"job {job_id}") as line:

        def show(job: Job) -> None:
            failed = job["counts"]["failed"] + job["counts"]["quarantined"]
            failures = f", {failed} failed" if failed else ""
            # The total is 0 until the source is listed.
            line(
                f"job {job_id}: {job['state']}{failures}",
                job["progress"] * job["total"],
                job["total"] or None,
                f"{job['done']}/{job['total']}, {job['progress']:.0%}",
            )

        yield show


@contextmanager
def operation_progress(operation_id: str, progress: bool) -> Iterator[Callable[[Operation], None]]:
    """Yield the function to call with each new state of an operation."""
    if not progress:
        yield lambda operation: None
        return
    with _line(f"operation {operation_id}") as line:

        def show(operation: Operation) -> None:
            name = f"{operation['kind']} of {operation['collection']}: {operation['state']}"
            line(name, operation["progress"], 1.0, f"{operation['progress']:.0%}")

        yield show


_lock = threading.Lock()
_display: Progress | None = None
_line_count = 0


@contextmanager
def _line(name: str) -> Iterator[Callable[[str, float, float | None, str], None]]:
    """Yield a function that updates a line: description, completed, total, amount as text.

    Concurrent lines share one display, as two displays would overwrite each other.
    """
    global _display, _line_count
    with _lock:
        if _display is None:
            _display = _new_display()
            _display.start()
        display, _line_count = _display, _line_count + 1
    task = display.add_task(escape_controls(name), total=None, amount="")
    try:
        yield lambda name, done, total, amount: display.update(
            task, description=escape_controls(name), completed=done, total=total, amount=amount
        )
    finally:
        display.stop_task(task)
        with _lock:
            _line_count -= 1
            if _line_count == 0:
                display.stop()
                _display = None


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    name = TextColumn("{task.description}", markup=False)  # file names may contain markup
    amount = TextColumn("{task.fields[amount]}", markup=False)
    is_visible = console.is_terminal or console.is_jupyter
    return Progress(name, BarColumn(), amount, TimeRemainingColumn(), console=console, disable=not is_visible)
