"""Domain errors of all packages. ``service/http/problems.py`` maps them to HTTP statuses.

A message names the key, the value and what was expected. ``code`` is a stable, machine-readable name.
"""

from __future__ import annotations


class VitascopeError(Exception):
    """Base class of all errors that a user can cause or must know about."""

    code = "error"


class InvalidInput(VitascopeError):
    """An invalid value, such as a negative limit or an unknown option."""

    code = "invalid_input"


class TextError(InvalidInput):
    """A text that is empty or too long."""

    code = "invalid_text"


class FilterError(InvalidInput):
    """An invalid metadata filter."""

    code = "invalid_filter"


class MediaError(VitascopeError):
    """A file that cannot be used as a video or image."""

    code = "media_error"


class MediaUnsupported(MediaError):
    """A container or codec that is not supported, or a file that is not a video or image."""

    code = "media_unsupported"


class MediaCorrupt(MediaError):
    """A damaged, truncated or empty file, or one without a decodable frame."""

    code = "media_corrupt"


class MediaTooLarge(MediaError):
    """A file above a limit of bytes, pixels, seconds or frames."""

    code = "media_too_large"


class SubtitlesCorrupt(MediaError):
    """Subtitles that cannot be parsed; the message names file and line."""

    code = "subtitles_corrupt"


class DecodingUnavailable(VitascopeError):
    """No decoding process is available, or the service is stopping; the file is not at fault."""

    code = "decoding_unavailable"


class BundleError(VitascopeError):
    """A bundle that cannot be opened."""

    code = "bundle_error"


class BundleNotFound(BundleError):
    """No bundle at that path."""

    code = "bundle_not_found"


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, or its SHA-256 or shape differs from the manifest."""

    code = "bundle_corrupt"


class BundleUnsupported(BundleError):
    """A manifest version, graph or feature that this version does not support."""

    code = "bundle_unsupported"


class BundleUntrusted(BundleError):
    """A signature is required, but the manifest has no valid signature of a trusted key."""

    code = "bundle_untrusted"


class TaskMissing(VitascopeError):
    """The bundle has no graph for this task."""

    code = "task_missing"


class EngineError(VitascopeError):
    """An inference engine failed, or its device cannot be used."""

    code = "engine_error"


class EngineUnavailable(EngineError):
    """The inference server does not respond; a retry may help."""

    code = "engine_unavailable"


class TrainingDiverged(VitascopeError):
    """A loss became infinite or not a number."""

    code = "training_diverged"


class ClusterError(VitascopeError):
    """The Ray cluster cannot be reached, or fails."""

    code = "cluster_error"


class NotFound(VitascopeError):
    """Something named does not exist."""

    code = "not_found"


class CollectionNotFound(NotFound):
    """No collection has this name."""

    code = "collection_not_found"


class VideoNotFound(NotFound):
    """No video has this id."""

    code = "video_not_found"


class JobNotFound(NotFound):
    """No job has this id."""

    code = "job_not_found"


class Conflict(VitascopeError):
    """The current state does not allow the operation."""

    code = "conflict"


class CollectionExists(Conflict):
    """A collection with this name already exists."""

    code = "collection_exists"


class CursorExpired(Conflict):
    """The cursor's collection was replaced, or restored to an earlier state."""

    code = "cursor_expired"


class FingerprintMismatch(Conflict):
    """The collection belongs to another bundle than the one in use."""

    code = "fingerprint_mismatch"


class StorageError(VitascopeError):
    """Durable storage failed (disk full, damaged database). Nothing was acknowledged."""

    code = "storage_error"


class VectorsUnavailable(StorageError):
    """The vector database does not respond. Nothing is lost, and a retry may help."""

    code = "vectors_unavailable"
