"""Logging to standard error, as text or JSON lines."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

from service.settings import Settings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = "{asctime}{levelname}{name}{message}"


def configure_logging(settings: Settings) -> None:
    """Configure the root logger by the settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(create_formatter(settings.log_format))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    if settings.log_level != "debug":  # it logs each request to a remote engine
        logging.getLogger("httpx").setLevel(logging.WARNING)


def create_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter for ``text``, or ``json``: one object per line, with the extra fields of a record."""
    if log_format == "text":
        return logging.Formatter(_TEXT)
    return JsonFormatter(
        _FIELDS, style="{", rename_fields={"asctime": "time", "levelname": "level", "name": "logger"}, datefmt=None
    )
