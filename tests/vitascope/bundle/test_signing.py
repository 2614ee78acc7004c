"""Signatures of bundles and key files."""

from __future__ import annotations

import base64
import json
import random
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import rounds
from tests.small_bundle import make_small_bundle
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import checksum_of
from vitascope.bundle.signing import (
    PublicKey,
    SecretKey,
    add_signature,
    generate_key,
    read_public_key,
    read_public_keys,
    read_secret_key,
    read_signatures,
    sign,
    write_key,
)
from vitascope.cli.main import main
from vitascope.errors import BundleError, BundleUntrusted, InvalidInput

SIGNATURE = "manifest.json.sig"


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return generate_key()


@pytest.fixture
def signed(tmp_path: Path, key: SecretKey) -> Path:
    """A small bundle with its checksum, signed by ``key``."""
    folder = make_small_bundle(tmp_path / "bundle", external_data=True)
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json.sha256").write_text(checksum_of(content))
    add_signature(folder, sign(content, key))
    return folder


def resign(folder: Path, key: SecretKey) -> None:
    add_signature(folder, sign((folder / "manifest.json").read_bytes(), key))


def untrusted_reason(folder: Path, *keys: PublicKey) -> str:
    """Return why a bundle is not trusted."""
    with pytest.raises(BundleUntrusted) as caught:
        Bundle.open(folder, keys)
    return str(caught.value)


def test_a_bundle_signed_by_a_trusted_key_opens(signed: Path, key: SecretKey) -> None:
    untrusted = generate_key().public
    opened = Bundle.open(signed, [untrusted, key.public])
    assert opened.signature is not None
    assert opened.signature.key_id_hex == key.public.key_id_hex
    assert "file:manifest.json" in opened.signature.comment
    assert Bundle.open(signed).signature is None


def test_signatures_of_minisign_are_valid(tmp_path: Path) -> None:
    """A published key and its signature of "test", written by minisign."""
    (tmp_path / "minisign.pub").write_text(
        "untrusted comment: minisign public key E7620F1842B4E81F\n"
        "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n"
    )
    (tmp_path / SIGNATURE).write_text(
        "untrusted comment: signature from minisign secret key\n"
        "RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n"
        "trusted comment: timestamp:1556193335\tfile:test\n"
        "y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==\n"
    )
    public = read_public_key(tmp_path / "minisign.pub")
    [signature] = read_signatures(tmp_path)
    assert public.key_id_hex == signature.key_id_hex == "E7620F1842B4E81F"
    assert signature.is_valid(b"test", public)
    assert not signature.is_valid(b"tess", public)
    assert not replace(signature, comment="timestamp:1556193336\tfile:test").is_valid(b"test", public)


def test_an_untrusted_signer_is_named(signed: Path, key: SecretKey) -> None:
    untrusted = generate_key()
    message = untrusted_reason(signed, untrusted.public)
    assert f"signed by {key.public.key_id_hex}" in message
    assert f"one of the trusted keys ({untrusted.public.key_id_hex}) was expected" in message
    (signed / SIGNATURE).unlink()
    assert untrusted_reason(signed, key.public) == (
        f"{SIGNATURE}: missing; a signature by one of the trusted keys ({key.public.key_id_hex}) was expected"
    )
    assert "trusted keys (none)" in untrusted_reason(signed)


def test_a_signature_of_another_manifest_is_rejected(signed: Path, tmp_path: Path, key: SecretKey) -> None:
    other = make_small_bundle(tmp_path / "other", seed=1)
    shutil.copy(signed / SIGNATURE, other / SIGNATURE)
    assert f"the signature by {key.public.key_id_hex} is not of this manifest.json" in untrusted_reason(
        other, key.public
    )


def test_a_modified_manifest_with_a_new_checksum_is_rejected(signed: Path, key: SecretKey) -> None:
    manifest = signed / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.05", "0.06"))
    (signed / "manifest.json.sha256").write_text(checksum_of(manifest.read_bytes()))
    assert Bundle.open(signed).manifest.temperature == 0.06
    assert "is not of this manifest.json" in untrusted_reason(signed, key.public)


def test_another_key_with_the_same_id_is_rejected(signed: Path, key: SecretKey) -> None:
    swapped = generate_key()
    swapped = replace(swapped, public=replace(swapped.public, key_id=key.public.key_id))
    resign(signed, swapped)
    assert len(read_signatures(signed)) == 1
    message = untrusted_reason(signed, key.public)
    assert "is not of this manifest.json, or by another key with that id" in message


def test_a_bundle_signed_by_several_keys_opens_with_any_of_them(signed: Path, key: SecretKey) -> None:
    second = generate_key()
    resign(signed, second)
    resign(signed, key)  # replaces the earlier signature
    signers = {signature.key_id_hex for signature in read_signatures(signed)}
    assert signers == {key.public.key_id_hex, second.public.key_id_hex}
    assert len(read_signatures(signed)) == 2
    for trusted in (key, second):
        opened = Bundle.open(signed, [trusted.public])
        assert opened.signature is not None
        assert opened.signature.key_id_hex == trusted.public.key_id_hex
    [first, last] = (signed / SIGNATURE).read_text().split("untrusted comment: ")[1:]
    (signed / SIGNATURE).write_text("untrusted comment: " + last)
    assert "signed by" in untrusted_reason(signed, second.public)
    assert first


def test_a_modified_or_truncated_signature_is_rejected(
    signed: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except in the first line, the untrusted comment."""
    path = signed / SIGNATURE
    original = path.read_bytes()
    monkeypatch.setattr(
        "vitascope.bundle.bundle.parse_manifest", lambda content: pytest.fail("the manifest was parsed")
    )
    step = rounds(9, 1)
    for length in range(0, len(original), step):
        path.write_bytes(original[:length])
        untrusted_reason(signed, key.public)
    rng = random.Random(6)
    for offset in range(original.index(b"\n"), len(original), step):
        flipped = bytearray(original)
        flipped[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        untrusted_reason(signed, key.public)
    path.write_bytes(original * 300)
    assert "more than 65536 bytes" in untrusted_reason(signed, key.public)


@pytest.mark.parametrize("link", ["manifest.json", "text.onnx"])
def test_links_out_of_a_signed_bundle_are_rejected(link: str, signed: Path, tmp_path: Path, key: SecretKey) -> None:
    shutil.move(signed / link, tmp_path / "outside")
    (signed / link).symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=rf"{link}: a link that leaves the bundle"):
        Bundle.open(signed, [key.public])


def test_a_secret_key_is_private_and_never_shown(
    tmp_path: Path, key: SecretKey, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "keygen", str(tmp_path / "test"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    secret, public = tmp_path / "test.key", tmp_path / "test.pub"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    loaded = read_secret_key(secret)
    assert loaded.public == read_public_key(public)
    assert result["key_id"] == loaded.public.key_id_hex
    encoded_secret = secret.read_text().splitlines()[1]
    (tmp_path / "other.key").write_text("another key")
    assert main(["bundle", "keygen", str(tmp_path / "other")]) == 2  # never overwritten
    assert not (tmp_path / "other.pub").exists()
    assert main(["bundle", "keygen", str(tmp_path / "test")]) == 2
    shown = capsys.readouterr()
    for text in (json.dumps(result), shown.out, shown.err, repr(loaded), str(loaded)):
        assert encoded_secret not in text
        assert loaded.seed.hex() not in text
        assert repr(loaded.seed) not in text
    assert read_secret_key(secret) == loaded
    secret.chmod(0o644)
    with pytest.raises(InvalidInput, match=r"test\.key has mode 0644; 0600 was expected"):
        read_secret_key(secret)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (2, b"Sc", "has a password"),
        (60, b"\0\0\0", "is damaged"),  # the id
        (70, bytes(88), "is damaged"),  # the key, and a checksum of zeros as minisign writes it
        (0, b"Xx", "is not a key file"),
        (150, b"", "is not a key file"),
    ],
)
def test_invalid_secret_keys_are_rejected_without_being_shown(
    offset: int, value: bytes, reason: str, tmp_path: Path, key: SecretKey
) -> None:
    write_key(key, tmp_path / "a.key", tmp_path / "a.pub")
    comment, line = (tmp_path / "a.key").read_text().splitlines()
    content = base64.b64decode(line)
    content = content[:offset] + value + (content[offset + len(value) :] if value else b"")
    (tmp_path / "a.key").write_text(f"{comment}\n{base64.b64encode(content).decode()}\n")
    with pytest.raises(InvalidInput, match=rf"a\.key {reason}") as caught:
        read_secret_key(tmp_path / "a.key")
    assert line[:20] not in str(caught.value)


def test_public_keys_are_read_from_files_and_folders(tmp_path: Path, key: SecretKey) -> None:
    second = generate_key()
    (tmp_path / "keys").mkdir()
    with pytest.raises(InvalidInput, match=r"has no \*\.pub"):
        read_public_keys([tmp_path / "keys"])
    write_key(key, tmp_path / "a.key", tmp_path / "keys" / "a.pub")
    write_key(second, tmp_path / "b.key", tmp_path / "keys" / "b.pub")
    (tmp_path / "keys" / "README").write_text("not a key")
    assert read_public_keys([tmp_path / "keys", tmp_path / "keys" / "a.pub"]) == (key.public, second.public)
    (tmp_path / "keys" / "c.pub").write_text("RWQ\n")
    with pytest.raises(InvalidInput, match=r"c\.pub is not a key file; a public key was expected"):
        read_public_keys([tmp_path / "keys"])


def test_the_command_signs_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, key = str(make_small_bundle(tmp_path / "bundle")), tmp_path / "test"
    assert main(["bundle", "keygen", str(key)]) == 0
    assert main(["bundle", "keygen", str(tmp_path / "other")]) == 0
    check = ["bundle", "verify", bundle, "--key", f"{key}.pub"]
    monkeypatch.setattr("vitascope.bundle.verify.parse_manifest", lambda content: pytest.fail("it was parsed"))
    assert main(check) == 1
    assert "manifest.json.sig" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["bundle", "sign", bundle, "--key", f"{key}.key", "--comment", "release 7"]) == 0
    assert main(["bundle", "sign", bundle, "--key", f"{tmp_path}/other.key", "--comment", "two\nlines"]) == 2
    assert "comment: 'two\\nlines'; one line" in capsys.readouterr().err
    assert main([*check, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(each["valid"], each["comment"]) for each in result["signatures"]] == [(True, "release 7")]
    assert result["verified"] is True
    assert main(["bundle", "verify", bundle, "--key", f"{tmp_path}/other.pub"]) == 1
    assert main(["bundle", "verify", bundle]) == 0  # signatures are optional without --key
    assert "not checked (--key)" in capsys.readouterr().out
    assert main(["bundle", "inspect", bundle]) == 0
    assert f"{result['signatures'][0]['key']} (not checked)" in capsys.readouterr().out


def test_a_damaged_bundle_is_not_signed(signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_key(generate_key(), tmp_path / "a.key", tmp_path / "a.pub")
    before = (signed / SIGNATURE).read_bytes()
    weights = bytearray((signed / "weights.bin").read_bytes())
    weights[9] ^= 1
    (signed / "weights.bin").write_bytes(weights)
    assert main(["bundle", "sign", str(signed), "--key", str(tmp_path / "a.key")]) == 2
    assert "weights.bin: its SHA-256" in capsys.readouterr().err
    assert (signed / SIGNATURE).read_bytes() == before
