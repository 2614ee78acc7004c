"""Opening the files of stored videos."""

from __future__ import annotations

from index.records import Video
from service.allowed_paths import JOBS
from service.app_state import Service
from service.errors import MediaMissing, PathForbidden
from service.serializers import display_name
from vitascope.errors import MediaError, StorageError
from vitascope.media.file import MediaFile, PathOutsideRoot


def open_stored(service: Service, name: str, video: Video) -> MediaFile:
    """Open the file of a video of the collection ``name``.

    A file that the collection owns must lie in its media folder, any other in one of the allowed folders, whatever
    the catalogue says: whoever may write to these folders, or to a catalogue, cannot have other files read.

    Raises CollectionNotFound, MediaMissing, PathForbidden and StorageError.
    """
    collection = service.collection(name)
    file = f"video {video.id}: its file {display_name(video.path)!r}"
    is_owned = collection.owns(video)
    try:
        return collection.media.open(video.path, service.settings.roots())
    except PathOutsideRoot as error:
        if is_owned:
            raise PathForbidden(f"{file} leads out of the collection's media folder") from error
        folders, setting = JOBS
        raise PathForbidden(f"{file} lies outside {folders} ({setting} adds others)") from error
    except (FileNotFoundError, NotADirectoryError, ValueError, MediaError) as error:
        raise MediaMissing(f"{file} is gone") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror or error}") from error
