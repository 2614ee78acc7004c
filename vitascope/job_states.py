"""States of indexing jobs and their files, shared by the catalogue, the HTTP API and the client."""

from typing import Literal, get_args

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
ItemState = Literal["queued", "running", "succeeded", "refreshed", "failed", "skipped", "cancelled", "quarantined"]

JOB_STATES: tuple[JobState, ...] = get_args(JobState)
ITEM_STATES: tuple[ItemState, ...] = get_args(ItemState)
FINAL_JOB_STATES: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
"""Final states of a job. Only a retry changes them."""
FAILED_ITEM_STATES: tuple[ItemState, ...] = ("failed", "quarantined")
