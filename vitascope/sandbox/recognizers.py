"""The recognisers of a service (the configured ones) or of a command (any that it names)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Self

from vitascope.errors import Conflict, InvalidInput
from vitascope.sandbox.pool import MetricsObserver
from vitascope.sandbox.recognition import (
    KINDS,
    MEMORY_BYTES,
    MODULE,
    TIME_FACTOR,
    RecognitionKind,
    Recognizer,
    RecognizerState,
)

DEFAULT_MODEL = "default"
"""Name that stands for the model that is configured where the job runs."""
SETTINGS: Mapping[RecognitionKind, str] = {"speech": "VITASCOPE_SPEECH_MODEL", "screen_text": "VITASCOPE_TEXT_READER"}
DEFAULT_TEXT_READER = "rapidocr"
_HINTS: Mapping[RecognitionKind, str] = {
    "speech": "a folder with a speech model, or pocketsphinx for a first try",
    "screen_text": "rapidocr, or a folder with a PP-OCR model",
}
_OPTIONS: Mapping[RecognitionKind, str] = {"speech": "transcribe", "screen_text": "read_text"}


class Recognizers:
    """Recognisers by kind and model, whose processes are started when they are first needed, or by ``start``.

    A context manager, which ends the processes. Safe to use from many threads.
    """

    def __init__(
        self,
        configured: Mapping[RecognitionKind, str],
        *,
        is_restricted: bool = False,
        threads: int = 0,
        memory_bytes: int = MEMORY_BYTES,
        time_factor: float = TIME_FACTOR,
        observe: Callable[[RecognitionKind], MetricsObserver] | None = None,
        module: str = MODULE,
    ) -> None:
        """Create the object without starting a process.

        Args:
            configured: The model that ``DEFAULT_MODEL`` stands for, by kind.
            is_restricted: Whether only configured models may be used.
            threads: Of each engine; 0: one per core.
            memory_bytes, time_factor, module: As in ``Recognizer``.
            observe: Returns the observer of a kind.
        """
        self._configured = dict(configured)
        self._is_restricted = is_restricted
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._time_factor = time_factor
        self._observe = observe
        self._module = module
        self._lock = threading.Lock()
        self._recognizers: dict[tuple[RecognitionKind, str], Recognizer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes of the configured recognisers in the background."""
        for kind in self._configured:
            self.get(kind)

    def get(self, kind: RecognitionKind, model: str = DEFAULT_MODEL) -> Recognizer:
        """Return a recogniser; its process is started if it has none.

        Raises Conflict if none is configured, and InvalidInput for a model that may not be used here; both name the
        option of jobs.
        """
        model = self.resolve(kind, model)
        with self._lock:
            if (recognizer := self._recognizers.get((kind, model))) is None:
                recognizer = Recognizer(
                    kind,
                    model,
                    threads=self._threads,
                    memory_bytes=self._memory_bytes,
                    time_factor=self._time_factor,
                    observer=None if self._observe is None else self._observe(kind),
                    module=self._module,
                )
                self._recognizers[kind, model] = recognizer
                recognizer.start()
        return recognizer

    def resolve(self, kind: RecognitionKind, model: str) -> str:
        """Resolve the name of a model. Raises Conflict and InvalidInput like ``get``."""
        configured = self._configured.get(kind)
        if model == DEFAULT_MODEL:
            if configured is None:
                raise Conflict(
                    f"{_OPTIONS[kind]}: no model is configured here; {SETTINGS[kind]} was expected: {_HINTS[kind]}"
                )
            return configured
        if not self._is_restricted or model == configured:
            return model
        if configured is None:
            raise Conflict(f"{_OPTIONS[kind]}: {model!r}: no model is configured here ({SETTINGS[kind]})")
        loaded = self._recognizers.get((kind, configured))
        if loaded is not None and model == loaded.name:
            return configured
        expected = configured if loaded is None else loaded.name
        raise InvalidInput(f"{_OPTIONS[kind]}: {model!r}; {expected!r} was expected ({SETTINGS[kind]})")

    def all(self) -> list[Recognizer]:
        """Return the recognisers that were started, speech first."""
        with self._lock:
            recognizers = list(self._recognizers.values())
        return sorted(recognizers, key=lambda recognizer: KINDS.index(recognizer.kind))

    def state(self, kind: RecognitionKind) -> RecognizerState | None:
        """Return the state of the configured recogniser of a kind; None without one."""
        recognizer = self._recognizers.get((kind, self._configured.get(kind, "")))
        return None if recognizer is None else recognizer.state

    def is_ready(self, kind: RecognitionKind) -> bool:
        """Return whether the configured recogniser of a kind is loaded."""
        return self.state(kind) == "ready"

    def close(self) -> None:
        """End all processes."""
        for recognizer in self.all():
            recognizer.close()


def read_configured(environment: Mapping[str, str] = os.environ) -> dict[RecognitionKind, str]:
    """Return the models that the environment configures for commands; text is read by RapidOCR by default."""
    configured = {kind: environment[name] for kind, name in SETTINGS.items() if environment.get(name)}
    return {"screen_text": DEFAULT_TEXT_READER, **configured}
