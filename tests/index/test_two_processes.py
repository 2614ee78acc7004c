"""Two processes with one collection open: what one acknowledges, the other's next search sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from index.collection_store import CollectionStore
from tests.index.numbered import add, new_collection, numbers_in

ROOT = Path(__file__).parents[2]
OTHER = """
import sys
from pathlib import Path
from index.collection_store import CollectionStore
from tests.index.milvus_server import be_patient
from tests.index.numbered import add, content, numbers_in

be_patient()
library = CollectionStore(Path(sys.argv[1]))
collection = library.open("videos")
for line in sys.stdin:
    command, *numbers = line.split()
    if command == "add":
        add(collection, *map(int, numbers))
    elif command == "delete":
        collection.delete_video(collection.find_by_hash(content(int(numbers[0]))).id)
    print(*numbers_in(collection), flush=True)
library.close()
"""


def test_changes_cross_between_processes(tmp_path: Path, place: str) -> None:
    collection = new_collection(tmp_path, vectors=place)
    add(collection, 1, 2)
    assert numbers_in(collection) == [1, 2]
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask(line: str) -> list[int]:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write(f"{line}\n")
            other.stdin.flush()
            return [int(number) for number in other.stdout.readline().split()]

        assert ask("look") == [1, 2]
        assert ask("add 3 4 5") == [1, 2, 3, 4, 5] == numbers_in(collection)
        assert ask("delete 2") == [1, 3, 4, 5] == numbers_in(collection)
        add(collection, 6)
        first = collection.videos()[0]
        collection.delete_video(first.id)
        assert ask("look") == [3, 4, 5, 6] == numbers_in(collection)
        assert ask("add 6 6 7") == [3, 4, 5, 6, 7] == numbers_in(collection)
        other.stdin.close()
        assert other.wait() == 0
    collection.close()
    with CollectionStore(tmp_path) as library:
        assert numbers_in(library.open("videos")) == [3, 4, 5, 6, 7]
        assert library.drop("videos") == []


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path, place: str) -> None:
    new_collection(tmp_path, vectors=place).close()
    writer = (
        "import sys; from pathlib import Path; from index.collection_store import CollectionStore;"
        "from tests.index.numbered import add;"
        "first = int(sys.argv[2]); c = CollectionStore(Path(sys.argv[1])).open('videos');"
        "add(c, *range(first, first + 15)); add(c, *range(100, 105)); c.close()"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), str(first)], cwd=ROOT) for first in (0, 15)
    ]
    assert [process.wait() for process in writers] == [0, 0]
    with CollectionStore(tmp_path) as library:
        collection = library.open("videos")
        assert numbers_in(collection) == [*range(30), *range(100, 105)]
        assert collection.catalogue.integrity_errors() == []
        assert library.drop("videos") == []
