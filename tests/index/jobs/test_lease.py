"""Whether the owner of a running job is alive."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from index.jobs.lease import mark_run_ended, new_owner, owner_is_gone

ROOT = Path(__file__).parents[3]


def in_future() -> float:
    return time.time() + 60


def test_this_process_is_alive() -> None:
    assert not owner_is_gone(new_owner(), in_future())


def test_two_runs_in_one_process_are_two_owners() -> None:
    assert new_owner() != new_owner()


def test_an_ended_run_of_a_live_process_is_gone() -> None:
    ended, other = new_owner(), new_owner()
    mark_run_ended(ended)
    assert owner_is_gone(ended, in_future())
    assert not owner_is_gone(other, in_future())


def test_a_missing_owner_and_an_expired_lease_count_as_gone() -> None:
    assert owner_is_gone(None, None)
    assert owner_is_gone(new_owner(), time.time() - 1)


def test_an_ended_process_is_gone_before_its_lease_expires() -> None:
    command = [sys.executable, "-c", "from index.jobs.lease import new_owner; print(new_owner()); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        owner = other.stdout.readline()
        assert not owner_is_gone(owner, in_future())
        other.kill()
    assert owner_is_gone(owner, in_future())


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    assert owner_is_gone(json.dumps({**json.loads(new_owner()), "started": "1"}), in_future())


def test_a_process_on_another_machine_is_alive_while_its_lease_runs() -> None:
    assert not owner_is_gone(json.dumps({**json.loads(new_owner()), "host": "elsewhere", "pid": 1}), in_future())
