"""The installed version of Vitascope."""

from __future__ import annotations


def installed_version(default: str = "(not installed)") -> str:
    """Return the installed version, or ``default`` when running from a source tree."""
    # Imported here, as this import would double the time of shell completion.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vitascope")
    except PackageNotFoundError:
        return default
