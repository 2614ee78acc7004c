"""Tar headers that report damage as an error."""

from __future__ import annotations

from tarfile import (  # type: ignore[attr-defined]  # typeshed lacks the errors of headers
    InvalidHeaderError,
    SubsequentHeaderError,
    TarFile,
    TarInfo,
    TruncatedHeaderError,
)
from typing import Self


class CheckedTarInfo(TarInfo):
    """Header class for the argument `tarinfo` of `tarfile.open`: a damaged or truncated header raises ReadError.

    The standard class treats such a header as the end of the archive, so that later members are silently lost. An
    archive without the zero blocks that mark its end is still accepted.
    """

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError) as error:
            raise SubsequentHeaderError(str(error)) from None
