"""The lock that readers share and a writer has alone."""

from __future__ import annotations

import threading

import pytest

from index.vectors.rwlock import ReadersWriter

PATIENCE = 120.0


def test_readers_are_inside_together() -> None:
    lock = ReadersWriter()
    both_inside = threading.Barrier(2, timeout=PATIENCE)

    def read() -> None:
        with lock.shared():
            both_inside.wait()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not both_inside.broken


def test_no_reader_sees_a_writer_half_way() -> None:
    lock = ReadersWriter()
    pair = [0, 0]
    torn = []

    def write() -> None:
        for _ in range(300):
            with lock.exclusive():
                pair[0] += 1
                pair[1] += 1

    def read() -> None:
        for _ in range(300):
            with lock.shared():
                first, second = pair[0], pair[1]
            if first != second:
                torn.append((first, second))

    threads = [threading.Thread(target=work) for work in (write, write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert torn == []
    assert pair == [600, 600]


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock = ReadersWriter()
    order = []
    writer_waits = threading.Event()

    def write() -> None:
        writer_waits.set()
        with lock.exclusive():
            order.append("writer")

    def read() -> None:
        with lock.shared():
            order.append("reader")

    with lock.shared():
        writer = threading.Thread(target=write)
        writer.start()
        assert writer_waits.wait(PATIENCE)
        while not lock.has_waiting_writer:
            pass
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.05)
        assert order == []
    writer.join(PATIENCE)
    reader.join(PATIENCE)
    assert order == ["writer", "reader"]


def _fail_inside(lock: ReadersWriter, kind: str) -> None:
    with lock.exclusive() if kind == "exclusive" else lock.shared():
        raise ValueError(kind)


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_an_exception_inside_gives_the_lock_back(kind: str) -> None:
    lock = ReadersWriter()
    with pytest.raises(ValueError, match=kind):
        _fail_inside(lock, kind)
    with lock.exclusive():
        pass
