"""Logs for people, or as JSON lines for machines."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

from service.settings import Settings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = "{asctime}{levelname}{name}{message}"


def set_up_logs(settings: Settings) -> None:
    """Log to standard error in the format and from the level that the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.log_format))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    if settings.log_level != "debug":  # it would log each run of a graph at another server
        logging.getLogger("httpx").setLevel(logging.WARNING)


def formatter(log_format: str) -> logging.Formatter:
    """``json``: one object a line, with what a record carries besides its message."""
    if log_format == "text":
        return logging.Formatter(_TEXT)
    return JsonFormatter(
        _FIELDS, style="{", rename_fields={"asctime": "time", "levelname": "level", "name": "logger"}, datefmt=None
    )
