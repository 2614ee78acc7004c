"""What every reader of a corpus raises when its files are not as they should be."""

from __future__ import annotations

from vitascope.errors import InvalidInput


class CorpusError(InvalidInput):
    """A missing or malformed file of a corpus; names the file, the line (or member) and the field."""

    code = "invalid_corpus"
