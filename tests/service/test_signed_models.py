"""A service that requires signatures serves by nothing else, at the start and after it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lifespan import open_service
from service.settings import Settings, read_settings
from tests.chaos import rounds
from tests.service.conftest import settings_for
from tests.service.running import problem_of, serving
from tests.small_bundle import make_small_bundle
from tests.waiting import wait_for
from vitascope.bundle.signing import SecretKey, add_signature, generate_key, read_secret_key, sign, write_key
from vitascope.errors import BundleUntrusted, InvalidInput


def sign_bundle(folder: Path, key: SecretKey) -> Path:
    add_signature(folder, sign((folder / "manifest.json").read_bytes(), key))
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with one public key, whose secret half is ``ours.key``."""
    (tmp_path / "keys").mkdir()
    write_key(generate_key(), tmp_path / "ours.key", tmp_path / "keys" / "ours.pub")
    return tmp_path / "keys"


@pytest.fixture
def ours(keys: Path) -> SecretKey:
    return read_secret_key(keys.parent / "ours.key")


def harmed(folder: Path, moment: random.Random) -> Iterator[str]:
    """Time after time a file of the bundle is not what it was, whose name is given."""
    files = sorted(folder.iterdir())
    for _ in range(rounds(8, 1000)):
        file = moment.choice(files)
        whole = file.read_bytes()
        # The first line of a signature is anybody's to write.
        place = moment.randrange(whole.index(b"\n") if file.suffix == ".sig" else 0, len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << moment.randrange(8)
        file.write_bytes(whole[:place] if moment.random() < 0.3 else flipped)
        yield file.name
        file.write_bytes(whole)


def strict(bundle: Path, keys: Path, **given: object) -> Settings:
    data = keys.parent / "data"
    return settings_for(bundle, data, require_signature=True, trusted_keys=[keys], **given)


def test_a_service_does_not_start_with_a_bundle_that_nobody_it_trusts_signed(keys: Path, tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    with pytest.raises(BundleUntrusted, match=r"manifest\.json\.sig: missing"):
        open_service(strict(bundle, keys))
    sign_bundle(bundle, generate_key())
    with pytest.raises(BundleUntrusted, match=r"signed by .* one of the trusted keys"):
        open_service(strict(bundle, keys))
    assert not (tmp_path / "data").exists()


def test_what_is_added_must_be_signed_and_who_serves_does_so_on(
    keys: Path, ours: SecretKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "bundles"
    bundle = sign_bundle(make_small_bundle(tmp_path / "bundle"), ours)
    plain = make_small_bundle(root / "plain", seed=1)
    sign_bundle(make_small_bundle(root / "strange", seed=2), generate_key())
    changed = sign_bundle(make_small_bundle(root / "changed", seed=3), ours)
    (changed / "manifest.json").write_text((changed / "manifest.json").read_text().replace("0.05", "0.06"))
    damaged = sign_bundle(make_small_bundle(root / "damaged", seed=4), ours)
    with serving(strict(bundle, keys, bundles=[plain], bundles_root=root)) as running:
        client = running.client
        wait_for(lambda: [each["state"] for each in client.get("/v1/models").json()["models"]] == ["ready", "failed"])
        named = client.get("/v1/models").json()["models"]
        assert [one["signed_by"] for one in named] == [ours.public.key_id_hex, None]
        assert named[1]["error"].startswith("bundle_untrusted: manifest.json.sig: missing; a signature by one of")
        for folder, said in (
            ("plain", "manifest.json.sig: missing"),
            ("strange", f"one of the trusted keys ({ours.public.key_id_hex}) was expected"),
            ("changed", "is not of this manifest.json"),
        ):
            answer = client.post("/v1/models", json={"folder": folder})
            assert said in problem_of(answer, 422, "bundle_untrusted")["detail"]
        for name in harmed(damaged, random.Random(7)):
            answer = client.post("/v1/models", json={"folder": "damaged"})
            assert answer.status_code == 422, name
            assert answer.json()["code"] in ("bundle_corrupt", "bundle_untrusted"), name
        assert client.get("/v1/models").json()["models"] == named
        sign_bundle(plain, ours)
        address = client.post("/v1/models", json={"folder": "plain"}).headers["location"]
        wait_for(lambda: client.get(address).json()["state"] == "ready")
        # A key that is taken away counts no more, and what clients are told names no file of the machine.
        shutil.move(keys / "ours.pub", tmp_path / "withdrawn.pub")
        again = sign_bundle(make_small_bundle(root / "again", seed=5), ours)
        told = problem_of(client.post("/v1/models", json={"folder": again.name}), 422, "bundle_untrusted")["detail"]
        assert "cannot be read" in told
        assert str(keys) not in told
        assert str(keys) in caplog.text
        assert client.post("/v1/embeddings", json={"input": "a red thing"}).status_code == 200


def test_half_a_requirement_is_a_mistake(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="require_signature is set and trusted_keys is empty"):
        read_settings(require_signature=True)
    with pytest.raises(InvalidInput, match="trusted_keys is set and require_signature is not"):
        read_settings(trusted_keys=[keys])
    bundle = make_small_bundle(tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="absent cannot be read"):
        open_service(strict(bundle, keys).model_copy(update={"trusted_keys": [tmp_path / "absent"]}))
