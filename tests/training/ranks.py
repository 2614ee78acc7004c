"""Ranks of a distributed run, forked from one process that has imported what they need: that takes seconds each time.

    python -m tests.training.ranks

For every line of JSON on standard input, {program, environment, arguments, folder}, two processes run the program as
rank 0 and rank 1; `{rank}` in arguments stands for the rank. What they complain of is in `complaints-RANK.txt` of the
folder. A line with both exit codes is printed when both have ended; where one fails, the other is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import tests.training.test_processes  # noqa: F401  (for the ranks)
from training import curves


def main() -> None:
    curves.plot = lambda *_: None  # takes longer than the few steps of a test
    for line in sys.stdin:
        order = json.loads(line)
        ranks = {start(rank, **order): rank for rank in (0, 1)}
        codes = [0, 0]
        running = dict(ranks)
        while running:
            process, status = os.wait()
            codes[running.pop(process)] = os.waitstatus_to_exitcode(status)
            if status:
                for other in running:
                    os.kill(other, signal.SIGKILL)
        print(json.dumps(codes), flush=True)


def start(rank: int, program: str, environment: dict[str, str], arguments: list[str], folder: str) -> int:
    """The id of the process that runs the program."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        complaints = Path(folder) / f"complaints-{rank}.txt"
        os.dup2(os.open(complaints, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
        sys.argv[1:] = [argument.format(rank=rank) for argument in arguments]
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(program, namespace)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
