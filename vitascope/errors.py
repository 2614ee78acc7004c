"""Domain errors. Every room raises these; the service maps them to HTTP statuses in one table.

A message names the key, the value and what was expected. ``code`` is a stable, machine-readable name.
"""

from __future__ import annotations


class VitascopeError(Exception):
    """Base of all errors a user can cause or must know of."""

    code = "error"


class InvalidInput(VitascopeError):
    """A value outside what is documented (text too long, negative limit, unknown option)."""

    code = "invalid_input"


class TextError(InvalidInput):
    """A text that is empty or longer than the limit."""

    code = "invalid_text"


class FilterError(InvalidInput):
    """A metadata filter that cannot be understood."""

    code = "invalid_filter"


class MediaError(VitascopeError):
    """A file that cannot be used as video or picture."""

    code = "media_error"


class MediaUnsupported(MediaError):
    """Not a container or codec that is read here (also: audio only, text, a renamed archive)."""

    code = "media_unsupported"


class MediaCorrupt(MediaError):
    """Recognised, but damaged, truncated, empty or without a single decodable frame."""

    code = "media_corrupt"


class MediaTooLarge(MediaError):
    """Beyond a limit on bytes, pixels, seconds or frames."""

    code = "media_too_large"


class SubtitlesCorrupt(MediaError):
    """Subtitles that cannot be read; names the file and the line."""

    code = "subtitles_corrupt"


class DecodingUnavailable(VitascopeError):
    """No process that decodes is there, or the service is stopping; the file is not to blame."""

    code = "decoding_unavailable"


class BundleError(VitascopeError):
    """A bundle that cannot be opened."""

    code = "bundle_error"


class BundleNotFound(BundleError):
    """No bundle at that path."""

    code = "bundle_not_found"


class BundleCorrupt(BundleError):
    """A file is missing, or its SHA-256 or shape is not what the manifest states."""

    code = "bundle_corrupt"


class BundleUnsupported(BundleError):
    """A manifest version, graph or feature this runtime does not know."""

    code = "bundle_unsupported"


class BundleUntrusted(BundleError):
    """A signature is required, and there is none by a trusted key that is of this manifest."""

    code = "bundle_untrusted"


class TaskMissing(VitascopeError):
    """The bundle has no graph for the task asked for."""

    code = "task_missing"


class EngineError(VitascopeError):
    """A graph engine failed or the device asked for cannot be used."""

    code = "engine_error"


class EngineUnavailable(EngineError):
    """The server that runs the graphs does not answer, or not yet; trying again may help."""

    code = "engine_unavailable"


class ClusterError(VitascopeError):
    """The machines that should share the work cannot be had, or do not do it."""

    code = "cluster_error"


class NotFound(VitascopeError):
    """A named thing does not exist."""

    code = "not_found"


class CollectionNotFound(NotFound):
    code = "collection_not_found"


class VideoNotFound(NotFound):
    code = "video_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class Conflict(VitascopeError):
    """The state of things does not allow this."""

    code = "conflict"


class CollectionExists(Conflict):
    code = "collection_exists"


class CursorExpired(Conflict):
    """A cursor is of a collection that was replaced since, or restored to an earlier state."""

    code = "cursor_expired"


class FingerprintMismatch(Conflict):
    """A collection was filled by another bundle than the one in use."""

    code = "fingerprint_mismatch"


class StorageError(VitascopeError):
    """Durable storage failed (disk full, damaged database); nothing was acknowledged."""

    code = "storage_error"


class VectorsUnavailable(StorageError):
    """The server that searches the vectors does not answer, or not yet; nothing is lost, and trying again may help."""

    code = "vectors_unavailable"
