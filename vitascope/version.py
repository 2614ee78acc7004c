"""Which version of Vitascope is installed."""

from __future__ import annotations


def installed_version(otherwise: str = "(not installed)") -> str:
    """The version, or ``otherwise`` where the code runs without having been installed."""
    # Here: it takes as long as all else that a completion needs.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vitascope")
    except PackageNotFoundError:
        return otherwise
