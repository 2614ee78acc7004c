"""Re-embedding of a collection by another bundle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.edits import edit_video
from index.jobs import pipeline
from index.jobs.ingest import PreparedFile
from index.jobs.jobs import get_job, list_items
from index.jobs.pipeline import PipelineConfig
from index.jobs.runner import run_job
from index.recognitions import load_screen_text, load_speech, store_screen_text
from index.records import Video
from index.storage.edits import SourceStatement
from index.storage.filters import parse_filter
from index.storage.queries import write_meta
from index.transfer import reembed as reembed_module
from index.transfer.reembed import reembed
from tests.index.jobs.fixtures import SEQUENTIAL, create_folder_job, ingest_file, ingest_upload
from tests.index.sample_data import WITH_TEXT
from tests.index.searches import search_hits
from tests.media_files import solid, write_color_video, write_picture
from tests.small_bundle import SMALL_WIDTH, make_small_bundle
from tests.waiting import PATIENCE
from vitascope.errors import CollectionNotFound, Conflict, EngineError, FingerprintMismatch, InvalidInput
from vitascope.model import Model
from vitascope.speech.interface import SpeechSegment

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Two bundles with different weights."""
    root = tmp_path_factory.mktemp("bundles")
    return Model.open(make_small_bundle(root / "old", seed=1)), Model.open(make_small_bundle(root / "new", seed=2))


@pytest.fixture
def library(tmp_path: Path, models: tuple[Model, Model]) -> Iterator[CollectionStore]:
    """Collection `videos` of the old bundle: a video of two clips with subtitles, and a picture."""
    folder = tmp_path / "films"
    folder.mkdir()
    write_color_video(folder / "red.mp4", COLORS["red"], seconds=12.0, rate=4)
    (folder / "red.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nsomething red\n", "utf-8")
    write_picture(folder / "green.png", solid(COLORS["green"]))
    with CollectionStore(tmp_path / "collections") as opened:
        collection = opened.create("videos", models[0])
        run_job(
            collection, models[0], create_folder_job(collection, folder, metadata={"year": 2024}).id, config=SEQUENTIAL
        )
        assert collection.stats().videos == 2
        yield opened


def videos_and_clips(collection: Collection) -> list[object]:
    return [(video, collection.clips(video.id)) for video in collection.videos(100)]


def best(library: CollectionStore, model: Model, color: str, name: str = "videos") -> str:
    return search_hits(library.open(name), model, f"a {color} thing", limit=1, rerank=1)[0].hit.video.title


def test_ids_and_texts_stay_and_the_new_bundle_searches(library: CollectionStore, models: tuple[Model, Model]) -> None:
    old_model, new_model = models
    before = videos_and_clips(library.open("videos"))
    assert best(library, old_model, "red") == "red"
    done = reembed(library, "videos", new_model)
    assert (done.replaced, done.embedded, done.failed) == (True, 2, [])
    collection = library.open("videos")
    assert videos_and_clips(collection) == before
    assert library.names() == ["videos"]
    assert [best(library, new_model, color) for color in ("red", "green")] == ["red", "green"]
    with pytest.raises(FingerprintMismatch):
        best(library, old_model, "red")
    assert collection.thumbnail(1) is not None
    assert collection.catalogue.integrity_errors() == []
    earlier = get_job(collection, 1)
    assert (earlier.state, earlier.counts.succeeded) == ("succeeded", 2)
    assert len(list_items(collection, 1)) == 3


def test_another_collection_of_the_name_of_the_copy_is_kept(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    other = library.create("videos-next", models[1])
    ingest_file(other, models[1], write_picture(tmp_path / "blue.png", solid(COLORS["blue"])))
    before = [videos_and_clips(library.open(name)) for name in ("videos", "videos-next")]
    with pytest.raises(Conflict, match=r"videos-next: exists, and is no unfinished copy of videos"):
        reembed(library, "videos", models[1])
    with other.catalogue.write() as connection:  # as a copy that an earlier version let others write to
        write_meta(connection, "reembed_began_at", "0")
    with pytest.raises(Conflict, match=r"videos-next: video 1 has other content than in videos"):
        reembed(library, "videos", models[1])
    assert [videos_and_clips(library.open(name)) for name in ("videos", "videos-next")] == before


def interrupt_reembedding(library: CollectionStore, name: str, model: Model) -> None:
    """Embed a collection again until its copy is complete."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reembed_module, "_replace", stop)
        with pytest.raises(KeyboardInterrupt):
            reembed(library, name, model)


def test_a_copy_of_a_dropped_collection_is_not_that_of_a_later_one_of_its_name(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    interrupt_reembedding(library, "videos", models[1])
    library.drop("videos")
    later = library.create("videos", models[0])
    ingest_file(later, models[0], tmp_path / "films" / "green.png", title="later")
    with pytest.raises(Conflict, match=r"videos-next: exists, and is no unfinished copy of videos"):
        reembed(library, "videos", models[1])
    library.drop("videos-next")
    assert reembed(library, "videos", models[1]).replaced
    assert [video.title for video in library.open("videos").videos()] == ["later"]


def test_a_long_name_has_a_shorter_copy_of_one_collection_alone(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    names = [f"{'n' * 62}{last}" for last in "ab"]
    for name in names:
        library.create(name, models[0])
    interrupt_reembedding(library, names[0], models[1])
    with pytest.raises(Conflict, match=rf"n-next: exists, and is no unfinished copy of {names[1]}"):
        reembed(library, names[1], models[1])
    assert [reembed(library, name, models[1]).replaced for name in names] == [True, True]
    assert library.names() == [*names, "videos"]


def test_videos_are_added_to_the_old_collection_alone(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))

    def add(done: int, total: int, title: str) -> None:
        if title == "blue":
            return
        with pytest.raises(Conflict, match=r"videos-next: an unfinished copy of videos"):
            ingest_file(library.open("videos-next"), models[1], picture)
        ingest_file(library.open("videos"), models[0], picture)

    assert reembed(library, "videos", models[1], on_video=add).replaced
    assert [video.title for video in library.open("videos").videos(100)] == ["green", "red", "blue"]
    assert ingest_file(library.open("videos"), models[1], picture).created is False


def test_an_id_of_a_deleted_video_is_not_used_again(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    collection = library.open("videos")
    newest = max(collection.videos(100), key=lambda video: video.id)
    collection.delete_video(newest.id)
    assert reembed(library, "videos", models[1]).replaced
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    assert ingest_file(library.open("videos"), models[1], picture).video.id > newest.id


def test_truncated_embeddings_keep_their_dimensions(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    small = library.create("small", models[0], dimensions=SMALL_WIDTH)
    for color, values in COLORS.items():
        ingest_file(small, models[0], write_picture(tmp_path / f"{color}.png", solid(values)))
    assert best(library, models[0], "green", "small") == "green"
    assert reembed(library, "small", models[1]).replaced
    assert library.open("small").embed_dim == SMALL_WIDTH
    assert [best(library, models[1], color, "small") for color in COLORS] == list(COLORS)


def test_both_collections_are_searched_until_the_replacement_and_later_writes_are_included(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_model, new_model = models
    late = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    old = library.open("videos")
    titles = []

    def meanwhile(done: int, total: int, title: str) -> None:
        titles.append(title)
        if title == "red":
            assert best(library, old_model, "red") == "red"
            assert best(library, new_model, "red", "videos-next") == "red"
            ingest_file(old, old_model, late)
            old.delete_video(next(video.id for video in old.videos() if video.title == "green"))

    done = reembed(library, "videos", new_model, on_video=meanwhile)
    assert done.replaced
    assert sorted({*titles} - {"green"}) == ["blue", "red"]
    assert sorted(video.title for video in library.open("videos").videos()) == ["blue", "red"]
    assert best(library, new_model, "blue") == "blue"


def test_videos_that_are_deleted_or_moved_meanwhile_do_not_fail_it(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    old = library.open("videos")
    deleted = ingest_upload(old, models[0], write_picture(tmp_path / "blue.png", solid(COLORS["blue"])))
    file, target = (tmp_path / "films" / name for name in ("white.png", "moved.png"))
    moved = ingest_file(old, models[0], write_picture(file, solid((255, 255, 255)))).video

    def change(done: int, total: int, title: str) -> None:
        if done == 1:
            old.delete_video(deleted.id)
            file.rename(target)
            old.refresh_video(moved, SourceStatement(path=str(target)))

    done = reembed(library, "videos", models[1], skip_missing=True, config=SEQUENTIAL, on_video=change)
    assert (done.replaced, done.failed) == (True, [])
    assert sorted(video.title for video in library.open("videos").videos()) == ["green", "red", "white"]


@pytest.mark.parametrize(
    ("is_start_known", "config"), [(True, SEQUENTIAL), (False, SEQUENTIAL), (True, PipelineConfig())]
)
def test_edits_during_it_are_kept(
    library: CollectionStore,
    models: tuple[Model, Model],
    monkeypatch: pytest.MonkeyPatch,
    is_start_known: bool,
    config: PipelineConfig,
) -> None:
    old = library.open("videos")
    if not is_start_known:  # as if it was begun by an earlier version
        monkeypatch.setattr(reembed_module, "_BEGAN_AT", "another key")
        monkeypatch.setattr(reembed_module, "read_meta", lambda *_: None)
    srt = "1\n00:00:09,000 --> 00:00:10,000\nedited words\n"

    [red] = old.videos(where=parse_filter({"title": "red"}))
    [green] = old.videos(where=parse_filter({"title": "green"}))
    store_screen_text(old, green.id, WITH_TEXT.screen_text, "reader")

    def edit(done: int, total: int, title: str) -> None:
        edit_video(old, red.id, title=f"edited after {done}", metadata={"year": None}, subtitles=srt)
        old.set_stemming("none")
        old.set_index_kind("hnsw")

    assert reembed(library, "videos", models[1], config=config, on_video=edit).replaced
    collection = library.open("videos")
    video = collection.get_video(red.id)
    assert (video.title, video.metadata) == ("edited after 2", {})
    assert (video.source_values.title, video.source_values.metadata) == ("red", {"year": 2024})
    assert [clip.text for clip in collection.clips(red.id)] == ["", "edited words"]
    assert load_speech(collection, red.id) == [SpeechSegment(9, 10, "edited words")]
    assert load_screen_text(collection, green.id) == list(WITH_TEXT.screen_text)
    assert collection.stemming() == "none"
    assert collection.index_state().requested == "hnsw"
    assert collection.catalogue.integrity_errors() == []


def test_a_file_that_is_gone_or_changed_keeps_the_old_collection(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    old_model, new_model = models
    write_picture(tmp_path / "films" / "green.png", solid(COLORS["blue"]))
    done = reembed(library, "videos", new_model)
    assert (done.replaced, done.embedded) == (False, 1)
    assert [(failure.video.title, failure.reason) for failure in done.failed] == [
        ("green", "green.png: has other content than when it was indexed; the same was expected")
    ]
    assert best(library, old_model, "green") == "green"
    assert library.names() == ["videos", "videos-next"]
    (tmp_path / "films" / "green.png").unlink()
    again = reembed(library, "videos", new_model, skip_missing=True)
    assert (again.replaced, again.embedded, len(again.failed)) == (True, 0, 1)
    assert [video.title for video in library.open("videos").videos()] == ["red"]


def test_it_continues_after_a_kill_at_any_step(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The process is killed."""

    def die(*_: object) -> None:
        raise Killed

    before = videos_and_clips(library.open("videos"))
    with pytest.raises(Killed):
        reembed(library, "videos", models[1], on_video=die)
    assert library.open("videos-next").stats().videos == 1
    with monkeypatch.context() as patch:
        patch.setattr(reembed_module, "copy_jobs", die)
        with pytest.raises(Killed):
            reembed(library, "videos", models[1])
    assert best(library, models[0], "red") == "red"
    job = create_folder_job(library.open("videos"), tmp_path / "films").id
    with monkeypatch.context() as patch:
        patch.setattr(reembed_module, "_link_files", die)
        with pytest.raises(Killed):
            reembed(library, "videos", models[1])
    with pytest.raises(Conflict, match=r"videos-next: an unfinished copy of videos"):
        run_job(library.open("videos-next"), models[1], job)
    done = reembed(library, "videos", models[1])
    assert (done.replaced, done.embedded) == (True, 0)
    assert videos_and_clips(library.open("videos")) == before
    assert run_job(library.open("videos"), models[1], job).state == "succeeded"


def test_videos_are_embedded_concurrently_and_added_in_order(
    library: CollectionStore, models: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, embed, other = pipeline.decode_clips, pipeline.embed_clips, threading.Event()

    def decoding(model: Model, opened: PreparedFile, *arguments: Any, **options: Any) -> Any:
        if opened.description.title == "green":  # the first; it waits until the second has been embedded
            assert other.wait(PATIENCE)
            time.sleep(0.1)  # and, so that an order by chance would show, a little longer
        return decode(model, opened, *arguments, **options)

    def embedding(*arguments: Any) -> Any:
        clips = embed(*arguments)
        other.set()
        return clips

    monkeypatch.setattr(pipeline, "embed_clips", embedding)
    monkeypatch.setattr(pipeline, "decode_clips", decoding)
    before = videos_and_clips(library.open("videos"))
    titles: list[str] = []
    done = reembed(
        library, "videos", models[1], config=PipelineConfig(decoders=2), on_video=lambda *at: titles.append(at[2])
    )
    assert done.replaced
    assert titles == ["green", "red"]
    assert videos_and_clips(library.open("videos")) == before
    with library.open("videos").catalogue.read() as connection:
        firsts = [row[0] for row in connection.execute("SELECT first_clip FROM changes ORDER BY id")]
    assert firsts == sorted(firsts)


def test_a_model_error_ends_it_and_the_same_call_continues(
    library: CollectionStore, models: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise EngineError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(models[1], "embed_video", broken)
        with pytest.raises(EngineError, match="out of memory"):
            reembed(library, "videos", models[1])
    assert library.open("videos-next").stats().videos == 0
    assert best(library, models[0], "red") == "red"
    assert reembed(library, "videos", models[1]).replaced


def test_invalid_arguments_are_refused(library: CollectionStore, models: tuple[Model, Model], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="filled collection videos already"):
        reembed(library, "videos", models[0])
    with pytest.raises(CollectionNotFound):
        reembed(library, "none", models[1])
    library.create("videos-next", Model.open(make_small_bundle(tmp_path / "third", seed=3)))
    with pytest.raises(FingerprintMismatch, match="videos-next: begun by bundle"):
        reembed(library, "videos", models[1])


def test_owned_media_files_are_linked_before_the_replacement(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_model, new_model = models
    old = library.open("videos")
    contents = {}
    for color in ("blue", "red"):
        file = write_picture(tmp_path / f"{color}.png", solid(COLORS[color]))
        contents[color] = file.read_bytes()
        ingest_upload(old, old_model, file, f"own {color}")
        assert not file.exists()

    def own(collection: Collection) -> dict[str, bytes]:
        owned = [video for video in collection.videos() if collection.owns(video)]
        return {video.title.removeprefix("own "): collection.media_path(video).read_bytes() for video in owned}

    replace = reembed_module._replace

    def replace_later(library: CollectionStore, old: Collection, new: Collection, skipped: set[int]) -> bool:
        assert own(new) == own(old) == contents
        new.delete_video(next(video.id for video in new.videos() if video.title == "own red"))
        assert own(old) == contents  # each has its own
        return replace(library, old, new, skipped | {video.id for video in old.videos() if video.title == "own red"})

    monkeypatch.setattr(reembed_module, "_replace", replace_later)
    assert reembed(library, "videos", new_model).replaced
    assert own(library.open("videos")) == {"blue": contents["blue"]}


def test_a_video_deleted_while_it_is_embedded_is_left_out(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_model, new_model = models
    old = library.open("videos")
    file = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    added = ingest_upload(old, old_model, file)
    add_with_ids = Collection.add_with_ids

    def late(self: Collection, video: Video, *arguments: Any) -> None:
        if video.id == added.id:
            old.delete_video(added.id)
        add_with_ids(self, video, *arguments)

    monkeypatch.setattr(Collection, "add_with_ids", late)
    done = reembed(library, "videos", new_model)
    assert (done.replaced, done.embedded, done.failed) == (True, 2, [])
    new = library.open("videos")
    assert sorted(video.title for video in new.videos()) == ["green", "red"]
    assert list(new.media.folder.iterdir()) == []
