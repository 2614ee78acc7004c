"""Scheduling of graph runs: priorities, batching, cancellation and failures."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.errors import DeadlineExceeded, Overloaded, RequestAbandoned
from service.inference.scheduler import BatchLimits, Call, CallContext, Scheduler, merge, select_batch, split
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError, EngineUnavailable

POISON = 666


def texts(*lengths: int, value: int = 1) -> dict[str, Any]:
    """Token rows of these lengths, padded to the longest."""
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = value
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


@dataclass
class RecordingObserver:
    batches: list[tuple[str, int, int]] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)
    failures: int = 0

    def ran(self, calls: Sequence[Call], started_at: float, ended_at: float) -> None:
        assert all(call.arrived <= started_at <= ended_at for call in calls)
        self.batches.append((calls[0].graph, len(calls), sum(call.rows for call in calls)))

    def dropped(self, call: Call, reason: str) -> None:
        self.drops.append(reason)

    def failed(self, call: Call) -> None:
        self.failures += 1


class Engine:
    """Sums the tokens of each row; can be blocked, fails for POISON, and kills its thread for POISON + 1."""

    def __init__(self) -> None:
        self.inputs_seen: list[np.ndarray] = []
        self.graphs: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def __call__(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.entered.set()
        assert self.free.wait(PATIENCE)
        ids = inputs["input_ids"]
        if (ids == POISON + 1).any():
            raise SystemExit("the engine takes the thread with it")
        if (ids == POISON).any():
            raise EngineError(f"{graph}: poisoned")
        self.inputs_seen.append(ids)
        self.graphs.append(graph)
        return {"vector": (ids * inputs["attention_mask"]).sum(axis=1, keepdims=True).astype(np.float32)}

    def block(self) -> None:
        self.entered.clear()
        self.free.clear()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def scheduler(engine: Engine, observer: RecordingObserver) -> Iterator[Scheduler]:
    limits = BatchLimits(rows=8, tokens=64, bulk_wait=math.inf)  # however slow the machine is
    made = Scheduler(engine, observer, limits, max_queue=6, max_queue_bytes=10_000)
    yield made
    engine.free.set()
    made.close()


def occupy(scheduler: Scheduler, engine: Engine) -> None:
    """Block the engine, so that further calls wait."""
    engine.block()
    scheduler.submit("text", texts(1), CallContext())
    assert engine.entered.wait(PATIENCE)


def test_waiting_calls_are_batched_and_each_gets_its_own_rows(
    scheduler: Scheduler, engine: Engine, observer: RecordingObserver
) -> None:
    occupy(scheduler, engine)
    short = scheduler.submit("text", texts(2, value=5), CallContext())
    long = scheduler.submit("text", texts(4, 3, value=7), CallContext())
    engine.free.set()
    assert short.result(PATIENCE)["vector"].tolist() == [[10]]  # padding does not count
    assert long.result(PATIENCE)["vector"].tolist() == [[28], [21]]
    assert observer.batches == [("text", 1, 1), ("text", 2, 3)]


def test_interactive_calls_precede_bulk_calls(scheduler: Scheduler, engine: Engine) -> None:
    occupy(scheduler, engine)
    bulk = [scheduler.submit("video", texts(1, value=9), CallContext(bulk=True)) for _ in range(2)]
    interactive = scheduler.submit("text", texts(1), CallContext())
    engine.free.set()
    interactive.result(PATIENCE)
    assert all(future.result(PATIENCE) for future in bulk)
    assert engine.graphs == ["text", "text", "video", "video"]


BULK, INTERACTIVE = CallContext(bulk=True), CallContext()


def test_an_overdue_bulk_call_precedes_at_most_one_interactive_call() -> None:
    bulk = [Call("video", texts(1), BULK, arrived=0.0) for _ in range(20)]
    fresh = Call("text", texts(1), INTERACTIVE, arrived=9.0)
    limits = BatchLimits(bulk_wait=2.0)
    for now, bulk_ended, expected in (
        (1.0, -math.inf, fresh),
        (2.0, -math.inf, bulk[0]),  # otherwise it would starve
        (10.0, 9.5, fresh),
        (11.5, 9.5, bulk[0]),
    ):
        assert select_batch([*bulk, fresh], limits, now=now, bulk_ended=bulk_ended) == [expected]


CANDIDATES = {name: np.ones((1, 3, 4), np.int64) for name in ("answer_ids", "answer_mask")}


@pytest.mark.parametrize(
    ("calls", "batch"),
    [
        pytest.param([("video", 1, BULK), ("video", 1, INTERACTIVE)] * 2, [1, 3], id="no bulk calls"),
        pytest.param(
            [("text", 2, INTERACTIVE), ("match", 2, INTERACTIVE), ("text", 2, INTERACTIVE)], [0, 2], id="graph"
        ),
        pytest.param([("answer", 2, INTERACTIVE)] * 3, [0], id="candidate answers alone"),
        pytest.param([("text", length, INTERACTIVE) for length in (8, 9, 60, 7)], [0, 1, 3], id="much padding"),
        # Two runs would cost more than twelve tokens of padding.
        pytest.param([("text", length, INTERACTIVE) for length in (8, 20)], [0, 1], id="little padding"),
    ],
)
def test_interactive_calls_of_one_graph_and_similar_length_are_batched(
    calls: list[tuple[str, int, CallContext]], batch: list[int]
) -> None:
    queue = [
        Call(graph, texts(length) | (CANDIDATES if graph == "answer" else {}), context)
        for graph, length, context in calls
    ]
    selected = select_batch(queue, BatchLimits(), now=0.0)
    assert sorted(queue.index(call) for call in selected) == batch


def test_calls_of_similar_length_join_first_within_the_limits() -> None:
    calls = [Call("text", texts(length), CallContext()) for length in (4, 32, 5, 3, 30)]
    for limits in (BatchLimits(rows=3, tokens=1000), BatchLimits(rows=10, tokens=40)):
        assert [call.length for call in select_batch(calls, limits, now=0.0)] == [4, 5, 3]
    assert select_batch(calls[1:], BatchLimits(rows=1, tokens=1), now=0.0) == [calls[1]]  # larger than the limit: alone
    calls = [Call("text", texts(5), CallContext()) for _ in range(7)]
    assert select_batch(calls, BatchLimits(), now=0.0, idle_workers=2) == calls[:4]  # the other worker gets the rest


def test_merge_and_split_are_inverse() -> None:
    random = np.random.default_rng(0)
    calls = [
        Call(
            "match",
            {**texts(*lengths), "visual_tokens": random.random((len(lengths), 2, 3), np.float32)},
            CallContext(),
        )
        for lengths in ((2, 5), (1,), (7, 7, 7))
    ]
    merged = merge(calls)
    assert merged["input_ids"].shape == (6, 7)
    for call, part in zip(calls, split(calls, merged), strict=True):
        assert np.array_equal(part["visual_tokens"], call.inputs["visual_tokens"])
        assert np.array_equal(part["input_ids"][:, : call.length], call.inputs["input_ids"])
        assert not part["attention_mask"][:, call.length :].any()


def test_windows_of_sound_are_merged_whole() -> None:
    sounds = [np.full((rows, 5), rows, np.float32) for rows in (1, 2)]
    calls = [Call("audio", {"samples": s, "lengths": np.full(len(s), 5)}, CallContext()) for s in sounds]
    merged = merge(calls)
    assert np.array_equal(merged["samples"], np.concatenate(sounds))
    assert merged["lengths"].tolist() == [5, 5, 5]


def test_windows_of_videos_of_several_lengths_are_merged() -> None:
    lengths = (3, 2)
    calls = [
        Call(
            "moments",
            {
                "windows": np.full((1, length, 4), length, np.float32),
                "window_mask": np.ones((1, length), np.int64),
                "text": np.full((1, 4), length, np.float32),
            },
            CallContext(),
        )
        for length in lengths
    ]
    assert select_batch(calls, BatchLimits(), now=0.0) == calls
    merged = merge(calls)
    assert merged["windows"][:, :, 0].tolist() == [[3, 3, 3], [2, 2, 0]]
    assert merged["window_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_captions_are_continued_together_if_they_are_equally_long() -> None:
    """Caption tokens cannot be padded, as the graph has no mask for them."""

    def step(past: int) -> Call:
        keys = np.full((2, 1, 2, past, 4), past, np.float32)
        inputs = {"input_ids": np.full((2, 1), past), "past_keys": keys, "visual_mask": np.ones((2, 3), np.int64)}
        return Call("caption_step", inputs, CallContext())

    calls = [step(past) for past in (3, 0, 3, 5)]
    batch = select_batch(calls, BatchLimits(), now=0.0)
    assert batch == [calls[0], calls[2]]
    assert merge(batch)["past_keys"].shape == (4, 1, 2, 3, 4)


def test_only_the_call_that_caused_the_error_fails(
    scheduler: Scheduler, engine: Engine, observer: RecordingObserver
) -> None:
    occupy(scheduler, engine)
    futures = [scheduler.submit("text", texts(1, value=v), CallContext()) for v in (1, 2, POISON, 4, 5)]
    engine.free.set()
    for value, future in zip((1, 2, POISON, 4, 5), futures, strict=True):
        if value == POISON:
            with pytest.raises(EngineError, match="poisoned"):
                future.result(PATIENCE)
        else:
            assert future.result(PATIENCE)["vector"].tolist() == [[value]]
    assert observer.failures == 1


def test_a_batch_is_not_bisected_if_the_engine_is_unavailable(
    scheduler: Scheduler, engine: Engine, observer: RecordingObserver
) -> None:
    """Each additional run would take as long to fail."""
    runs = 0

    def away(graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        raise EngineUnavailable("http://triton:8000: does not answer")

    occupy(scheduler, engine)
    futures = [scheduler.submit("text", texts(1), CallContext()) for _ in range(4)]
    scheduler._run = away
    engine.free.set()
    for future in futures:
        with pytest.raises(EngineUnavailable, match="does not answer"):
            future.result(PATIENCE)
    assert (runs, observer.failures) == (1, 4)


def test_cancelled_calls_never_run(scheduler: Scheduler, engine: Engine, observer: RecordingObserver) -> None:
    occupy(scheduler, engine)
    late = scheduler.submit("text", texts(1, value=41), CallContext(deadline=time.monotonic()))
    context = CallContext()
    abandoned = scheduler.submit("text", texts(1, value=42), context)
    withdrawn = scheduler.submit("text", texts(1, value=43), CallContext())
    kept = scheduler.submit("text", texts(1, value=44), CallContext())
    context.cancelled.set()
    assert withdrawn.cancel()
    engine.free.set()
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE)
    with pytest.raises(RequestAbandoned):
        abandoned.result(PATIENCE)
    assert kept.result(PATIENCE)["vector"].tolist() == [[44]]
    assert {int(ids.max()) for ids in engine.inputs_seen} == {1, 44}
    assert sorted(observer.drops) == ["abandoned", "abandoned", "deadline_exceeded"]


def test_calls_beyond_the_queue_limit_are_rejected_at_once(
    scheduler: Scheduler, engine: Engine, observer: RecordingObserver
) -> None:
    occupy(scheduler, engine)
    context = CallContext()
    with pytest.raises(Overloaded):
        scheduler.submit("text", texts(1000), CallContext())  # too many bytes
    futures = [scheduler.submit("text", texts(1), each) for each in (context, *(CallContext() for _ in range(5)))]
    with pytest.raises(Overloaded, match="6 requests wait"):
        scheduler.submit("text", texts(1), CallContext())
    futures += [scheduler.submit("text", texts(1), context) for _ in range(3)]  # a request with waiting calls
    futures.append(scheduler.submit("text", texts(1), CallContext(bulk=True)))
    engine.free.set()
    assert all(future.result(PATIENCE) for future in futures)
    assert observer.drops == ["refused", "refused"]


def test_a_dying_worker_fails_its_batch_and_is_replaced(scheduler: Scheduler, engine: Engine) -> None:
    occupy(scheduler, engine)
    deadly = scheduler.submit("video", texts(1, value=POISON + 1), CallContext())
    after = scheduler.submit("text", texts(1, value=3), CallContext())
    engine.free.set()
    with pytest.raises(EngineError, match="worker died"):
        deadly.result(PATIENCE)
    assert after.result(PATIENCE)["vector"].tolist() == [[3]]
    assert scheduler.restarts == 1
    assert scheduler.is_alive


class BlockingEngine:
    """An engine in which every run waits until it is released."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.changed = threading.Condition()
        self.open = False

    def __call__(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        with self.changed:
            self.inside.append(graph)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.open, PATIENCE)
            self.inside.remove(graph)
        return {"vector": inputs["input_ids"].astype(np.float32)}

    def holds(self, *graphs: str) -> bool:
        """Wait until exactly these graphs are running."""
        with self.changed:
            return self.changed.wait_for(lambda: sorted(self.inside) == sorted(graphs), PATIENCE)

    def release(self) -> None:
        with self.changed:
            self.open = True
            self.changed.notify_all()


@pytest.mark.parametrize("is_added", [False, True], ids=["from the start", "after a model is loaded"])
def test_the_first_of_several_workers_runs_no_bulk_calls(observer: RecordingObserver, is_added: bool) -> None:
    blocking = BlockingEngine()
    scheduler = Scheduler(blocking, observer, workers=1 if is_added else 2)
    if is_added:
        scheduler.add_workers(2)
        scheduler.add_workers(1)  # the number never decreases
    assert scheduler.workers == 2
    bulk = [scheduler.submit("video", texts(1), CallContext(bulk=True)) for _ in range(3)]
    assert blocking.holds("video")
    search = scheduler.submit("text", texts(1), CallContext())
    assert blocking.holds("text", "video")
    blocking.release()
    assert all(future.result(PATIENCE) for future in [*bulk, search])
    scheduler.close()
    scheduler.add_workers(3)  # by a model that is ready during the shutdown
    assert not scheduler.is_alive


def test_a_dying_worker_does_not_stop_the_others(engine: Engine, observer: RecordingObserver) -> None:
    scheduler = Scheduler(engine, observer, workers=2)
    for _ in range(4):
        deadly = scheduler.submit("text", texts(1, value=POISON + 1), CallContext(bulk=True))
        with pytest.raises(EngineError, match="worker died"):
            deadly.result(PATIENCE)
    kept = [scheduler.submit("text", texts(1, value=3), CallContext(bulk=bulk)) for bulk in (True, False)]
    assert [future.result(PATIENCE)["vector"].tolist() for future in kept] == [[[3]], [[3]]]
    wait_for(lambda: scheduler.restarts == 4)  # the last may still be on its way
    scheduler.close()


def test_close_runs_waiting_calls_and_rejects_new_ones(engine: Engine, observer: RecordingObserver) -> None:
    scheduler = Scheduler(engine, observer)
    occupy(scheduler, engine)
    waiting = scheduler.submit("text", texts(1, value=8), CallContext())
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(scheduler.close)
        wait_for(lambda: scheduler._closed)
        engine.free.set()
        closing.result(PATIENCE)
    assert waiting.result(0)["vector"].tolist() == [[8]]
    with pytest.raises(Overloaded):
        scheduler.submit("text", texts(1), CallContext())
