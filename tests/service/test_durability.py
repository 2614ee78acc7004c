"""What a power cut would take: every name and content that was not synchronised before an answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.conftest import settings_for
from tests.service.running import serving
from tests.service.uploading import picture, upload


class Disk:
    """Notes which names and contents are not durable yet."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lost: set[Path] = set()
        """Names that a power cut would take now."""
        self.contents: set[Path] = set()
        """Files whose content was synchronised."""
        for name in ("mkdir", "rename", "replace"):
            patch.setattr(os, name, self._noted(getattr(os, name)))
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self._synchronise)

    def _noted(self, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object, **options: object) -> None:
            call(*arguments, **options)
            paths = [Path(argument) for argument in arguments if isinstance(argument, str | Path)]
            self.lost.add(paths[-1])

        return noted

    def _synchronise(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.contents.add(path)
        self.lost = {name for name in self.lost if name.parent != path}


def test_no_name_on_the_way_to_an_upload_is_lost_by_a_power_cut(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "new" / "data"
    disk = Disk(monkeypatch)
    with serving(settings_for(small_bundle, data)) as running:

        def lost() -> list[Path]:
            return sorted(path for path in disk.lost if path.is_relative_to(tmp_path) and path.exists())

        assert running.client.post("/v1/collections", json={"name": "videos"}).status_code == 201
        assert lost() == []
        for number, (by_job, status) in enumerate([(False, 201), (True, 202)]):
            assert upload(running.client, "videos", picture(tmp_path, number), by_job=by_job).status_code == status
            assert lost() == []
        assert len(list((data / "collections" / "videos" / "media").iterdir())) == 2
        # Content is synchronised under the name that it has while it comes in.
        assert len([path for path in disk.contents if path.parent == data / "uploads"]) == 2
