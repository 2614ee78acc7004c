"""The caches of one service."""

from __future__ import annotations

from dataclasses import dataclass

from service.inference.cache import Cache
from service.inference.clip_cache import ClipCache, clip_bytes
from service.inference.text_cache import TextCache, text_bytes
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class Caches:
    """What the model has made already, of texts and of clips."""

    texts: TextCache
    clips: ClipCache

    def forget(self, fingerprint: str) -> None:
        """Drop all that the bundle of this fingerprint has made: it is no longer in use."""
        self.texts.forget(fingerprint)
        self.clips.forget(fingerprint)


def open_caches(settings: Settings, metrics: Metrics) -> Caches:
    """Empty caches, counted in ``metrics``."""
    caches = Caches(
        Cache("texts", settings.text_cache_bytes, text_bytes, metrics),
        Cache("clips", settings.clip_cache_bytes, clip_bytes, metrics),
    )
    metrics.bind_cache("texts", lambda: caches.texts.bytes, lambda: caches.texts.entries)
    metrics.bind_cache("clips", lambda: caches.clips.bytes, lambda: caches.clips.entries)
    return caches
