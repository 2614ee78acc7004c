"""Names are nouns, verbs and predicates, and one concept has one name (docs: CONTRIBUTING.md, "Words")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("vitascope", "index", "service", "training", "model_export", "benchmarks", "studies")
VAGUE = frozenset(["asked", "beside", "found", "given", "mine", "one", "said", "stated", "told", "wanted"])
"""Participles and pronouns that do not say what a value is."""
FORMER = """
OfThisMachine TextVectors graph_of stated_graph why_no_card name_of_card first_card told_beside BesideOutput
broken_bounds looking_at answer_among reads_answers stated_outputs Unwritten FrameMatch unnoticed new_secret MadeKey
MadeWebhook OperationWaiting Repeatable repeatable begin_video shown_upload shown_job shown_operation blocking_async
pause_async shielded_async chosen_command of_this_machine asked_server show_hits with_nothing with_collections Keeper
take_back is_hopeless reason_to_drop Watcher refuse_calls check_decoders in_corner corner_size over_white sample_part
OnMiddle gone_again shown_seconds lacked_memory usual_step takes_bytes going_on AT_ONCE named_beside normal_language
words_in vectors_at add_again new_meta index_here index_there files_here files_there check_meant check_there Pace
Workplace ThisProcess decodes_here note_parts heed_cancelling rest_all untold_ends note_told forget_untold note_state
job_now note_outcome note_item_crash note_abandoned put_aside Ingested OpenedFile open_unless_known FileState
has_ended owner_decoded Reach EVERYWHERE refuses_path refuses_url held_file let_go sweep_held kept_path guess_source
Desk fruitless LevelVectors note_written LiveIndex exact_costs_less building_alone OutOfReach ReadersWriter CopyKeeper
Proposing turn_among_processes may_be_found with_words MOST_TIES judge_pairs Judged JUDGED_CLIPS write_place
read_place mixed_vector insert_whole delete_whole hits_of reaches_back vector_blocks terms_of written_beside copy_data
DataCopy Reembedded look_at_upload SeenClip load_what_exports_need begin_to_stop LEAVING_SHARE Envelope Observed
share_done take_up_the_queue TurnedAway note_use Courier Feeds Told Door why_not_allowed set_aside give_back
OPEN_FAULTS is_fault put_together fuse_alone encoders_stand_still share_statistics Wiring Sight Lessons Taught Asked
Answered judge lend
"""
"""Earlier names of functions, classes and constants."""
FORMER_MODULES = """
stages stated_graph engine_choice caption_words loopback tokenise token_encoding asynchronous synchronous caller
sending repeating keeper corner likeness calibrated graph_contents cutting index_here index_there files_told
index_asked channel desk shifts shipping turns dropping nearest readers_writer durability beside data_copies
asking looking envelope observed courier outbound told asked
"""
TESTS = (
    "tests/*.py",
    "tests/docs",
    "tests/gpu",
    "tests/image",
    "tests/index",
    "tests/service",
    "tests/studies",
    "tests/training",
    "tests/vitascope",
)
ON_DISK = {("index/transfer/foreign_rows.py", "told"), ("model_export/parity/checks.py", "beside")}
"""Names of columns and keys of stored files."""


def names_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines: functions, classes, parameters and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@pytest.mark.parametrize("place", [*PACKAGES, *TESTS])
def test_names_say_what_they_name_and_former_names_are_gone(place: str) -> None:
    former, former_modules = VAGUE | set(FORMER.split()), set(FORMER_MODULES.split())
    violations = set()
    for path in ROOT.glob(place if place.endswith(".py") else f"{place}/**/*.py"):
        file = path.relative_to(ROOT).as_posix()
        names = {name.lstrip("_") for name in names_in(ast.parse(path.read_text("utf-8")))}
        violations |= {(file, name) for name in names & former}
        violations |= {(file, path.stem)} if path.stem in former_modules else set()
    assert sorted(violations - ON_DISK) == []
