"""Media paths of untrusted files that are not allowed, and the error for each."""

from __future__ import annotations

from pathlib import Path

_OUTSIDE = "outside the folders .*--root FOLDER, or VITASCOPE_ALLOWED_ROOTS"
_DATA = "in the data folder"
_NEITHER = "is neither an absolute path nor one below media/"
HOSTILE_PATHS = {
    "system file": ("/etc/passwd", f"leads to '/etc/passwd', {_OUTSIDE}"),
    "keys": ("{folder}/data/keys.sqlite3", _DATA),
    "keys by a link": ("{folder}/data-link/keys.sqlite3", _DATA),
    "catalogue of another collection": ("{folder}/data/collections/videos/catalogue.sqlite3", _DATA),
    "film of another collection": ("{folder}/data/collections/videos/media/a.mp4", _DATA),
    "out of a root": ("{folder}/roots/../data/keys.sqlite3", _DATA),
    "link in a root": ("{folder}/roots/passwd.mp4", f"leads to '/etc/passwd', {_OUTSIDE}"),
    "linked folder in a root": ("{folder}/roots/etc/passwd", f"leads to '/etc/passwd', {_OUTSIDE}"),
    "loop of links": ("{folder}/roots/loop", "cannot be followed"),
    "beside a root": ("{folder}/roots-not/a.mp4", _OUTSIDE),
    "out of media": ("media/../../../keys.sqlite3", _NEITHER),
    "media itself": ("media", _NEITHER),
    "catalogue": ("catalogue.sqlite3", _NEITHER),
    "dot in media": ("media/./a.mp4", _NEITHER),
    "nothing": ("", _NEITHER),
}
"""(path, message) by name. ``{folder}``: that of ``make_links``, with the data folder and the allowed ``roots``."""


def make_links(folder: Path) -> None:
    """Make what the paths go through, besides the data folder."""
    (folder / "roots").mkdir()
    (folder / "roots" / "etc").symlink_to("/etc")
    (folder / "roots" / "passwd.mp4").symlink_to("/etc/passwd")
    (folder / "roots" / "loop").symlink_to("loop")
    (folder / "data-link").symlink_to(folder / "data")


def hostile_path(name: str, folder: Path) -> tuple[str, str]:
    """The path, and a pattern of the message."""
    path, message = HOSTILE_PATHS[name]
    return path.format(folder=folder), message
