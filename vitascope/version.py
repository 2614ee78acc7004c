"""The installed version of Vitascope."""

from __future__ import annotations


def installed_version(default: str = "(not installed)") -> str:
    """Return the installed version, or ``default`` when running from a source tree."""
    # Imported here, since it takes as long as everything else that shell completion needs.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vitascope")
    except PackageNotFoundError:
        return default
