"""`vitascope export` as a person or a script calls it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from model_export import export
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main


@pytest.mark.usefixtures("exported_before")
def test_export_prints_one_json_object_and_writes_a_bundle(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    status = main(
        ["export", str(folders[0]), "--out", str(out), "--data", str(folders[1]), "--version", "2.0.1", "--json"]
    )
    assert status == 0
    printed = json.loads(capsys.readouterr().out)
    bundle = Bundle.open(out)
    assert printed["fingerprint"] == bundle.fingerprint
    assert printed["bytes"] == sum(f.stat().st_size for f in out.iterdir() if not f.name.startswith("manifest.json"))
    assert (bundle.manifest.name, bundle.manifest.version, bundle.manifest.precision) == (
        "mine",
        "2.0.1",
        "int8-weights",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{nowhere}", "--out", "{out}"], "checkpoint: nothing at"),
        (["{checkpoint}"], "out: missing"),
        (["{checkpoint}", "--out", "{out}", "--data", "{out}"], "its source and terms are not known"),
        (["{checkpoint}", "--out", "{out}", "--data", "{data}", "--metrics", "{nowhere}"], "cannot be read"),
        (["{bundle}"], "is a bundle: --metrics was expected"),
    ],
)
def test_user_errors_are_one_line(
    arguments: list[str],
    message: str,
    folders: tuple[Path, Path],
    bundles: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "checkpoint": folders[0],
        "data": folders[1],
        "out": tmp_path / "out",
        "nowhere": tmp_path / "nowhere",
        "bundle": bundles["float32"],
    }
    assert main(["export", *(a.format(**places) for a in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("exported_before")
def test_terminated_export_leaves_no_files(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object) -> None:
        assert list(tmp_path.iterdir()), "the new folder was expected to be there by now"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(export, "check_outputs", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(folders[0]), "--out", str(tmp_path / "mine"), "--data", str(folders[1])])
    assert ended.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
