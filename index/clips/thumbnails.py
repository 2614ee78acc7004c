"""Pictures of clips, made of frames that are decoded anyway."""

from __future__ import annotations

from vitascope.media.frame import Frame
from vitascope.media.sample import OnMiddle
from vitascope.media.thumbnail import thumbnail_jpeg


def thumbnails_into(kept: dict[int, bytes]) -> OnMiddle:
    """What puts a JPEG of each clip's middle frame into ``kept``, by the number of the clip."""

    def keep(clip: int, frame: Frame) -> None:
        kept[clip] = thumbnail_jpeg(frame)

    return keep
