"""Headers of tar archives in which damage is an error."""

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
    """A header for `tarinfo` of `tarfile.open`: one that is damaged or cut raises ReadError.

    By default it ends the archive, and all members behind it are lost. An archive may still lack the blocks of zeros
    that mark its end, after a whole member.
    """

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError) as error:
            raise SubsequentHeaderError(str(error)) from None
