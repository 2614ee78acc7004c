"""What a client would rather have (RFC 7240): to wait for an answer, or to be told at once of a job."""

from __future__ import annotations

import re
from collections.abc import Sequence

PREFER = "Prefer"
APPLIED = "Preference-Applied"
RESPOND_ASYNC = "respond-async"
_EACH = re.compile(r'(?:"(?:\\.|[^"\\])*+(?:"|\\?$)|[^,"])+')
"""A preference with its parameters; a string without an end goes to the end of the header. Takes linear time."""
_NAME_AND_VALUE = re.compile(r'\s*([^\s,;="]+)\s*(?:=\s*"?([^\s,;"]*))?')


def seconds_before_a_job(headers: Sequence[str]) -> float | None:
    """For how long the client waits, by its ``Prefer`` headers, before it would rather be told of a job.

    ``respond-async, wait=20`` is 20, ``respond-async`` is 0, all else None: it waits. What cannot be read is left
    out, and of two that contradict each other the first counts, as the RFC says.
    """
    stated: dict[str, str] = {}
    for header in headers:
        for each in _EACH.findall(header):
            if (found := _NAME_AND_VALUE.match(each)) is not None:
                stated.setdefault(found[1].lower(), found[2] or "")
    if RESPOND_ASYNC not in stated:
        return None
    wait = stated.get("wait", "")
    return float(wait) if wait.isascii() and wait.isdecimal() else 0.0
