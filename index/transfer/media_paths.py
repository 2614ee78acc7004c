"""Check the untrusted media paths of an imported or restored collection.

A relative path is that of a file in the ``media`` folder of the new collection. An absolute path must lead, all links
followed, below one of the folders that were allowed, and never into the data folder, where other collections' films and
the keys lie; only its ``incoming`` is for files from outside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from index.storage.former_paths import take_file
from index.storage.removals import MEDIA, is_owned
from vitascope.errors import InvalidInput, StorageError

INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class AllowedPaths:
    """Folders in which the media files of an imported or restored collection may lie.

    Attributes:
        roots: allowed folders for absolute paths.
        data: the data folder; below it, only ``incoming`` is allowed.
        folder: the folder of the new collection.
        is_former: whether absolute paths may be of files that version 0.2.0 owned.
    """

    roots: Sequence[Path]
    data: Path
    folder: Path = Path()
    is_former: bool = False

    def of_collection(self, folder: Path, *, is_former: bool) -> AllowedPaths:
        """Return the same for the new collection in ``folder``, with real paths."""
        roots, data = [Path(os.path.realpath(root)) for root in self.roots], Path(os.path.realpath(self.data))
        return replace(self, roots=roots, data=data, folder=folder, is_former=is_former)

    def accept(self, name: str, path: str, content_sha256: str) -> str:
        """Return the path by which the new collection is to name the file that was named so.

        A file that version 0.2.0 owned becomes one of the new collection. Raises InvalidInput, with the field's
        ``name``, unless the collection may have the file; StorageError.
        """
        if self.is_former:
            try:
                path = take_file(self.folder, path, content_sha256) or path
            except OSError as error:
                raise StorageError(f"{path}: cannot be brought into {self.folder}: {error}") from error
        try:
            problem = self._problem(path)
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long
            problem = f"cannot be followed ({error})"
        if problem is not None:
            raise InvalidInput(f"{name}: {path!r} {problem}")
        return path

    def _problem(self, path: str) -> str | None:
        if not os.path.isabs(path):
            return self._problem_of_own(path)
        real = Path(path).resolve()
        if real.is_relative_to((self.data / INCOMING).resolve()):
            return None
        if real.is_relative_to(self.data):
            return f"leads to {str(real)!r}, in the data folder; one outside of {str(self.data)!r} was expected"
        if any(real.is_relative_to(root) for root in self.roots):
            return None
        allowed = ", ".join(map(str, self.roots)) or "none"
        return (
            f"leads to {str(real)!r}, outside the folders of media files that are allowed ({allowed}); "
            "--root FOLDER, or VITASCOPE_ALLOWED_ROOTS, allows another"
        )

    def _problem_of_own(self, path: str) -> str | None:
        if not is_owned(path):
            return f"is neither an absolute path nor one below {MEDIA}/ in the collection's folder"
        real, top = (self.folder / path).resolve(), (self.folder / MEDIA).resolve()
        if not real.is_relative_to(top):
            return f"leads to {str(real)!r}, out of {MEDIA}/ in the collection's folder"
        return None
