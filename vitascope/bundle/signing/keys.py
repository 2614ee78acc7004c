"""Keys that sign bundles, in the files of minisign: a line of comment, a line of base64.

public key: "Ed", key id (8 bytes), key (32). secret key: "Ed", two zeros (no password), "B2", 48 bytes that belong to
passwords, key id (8), seed (32) and public key (32), BLAKE2b-256 of "Ed" and these, or zeros.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vitascope.errors import InvalidInput

ALGORITHM = b"Ed"
COMMENT = "untrusted comment: "
ID_BYTES = 8
_NO_PASSWORD, _CHECKSUM, _FOR_PASSWORDS = b"\0\0", b"B2", bytes(48)
_MAX_KEY_BYTES = 4096
_OTHERS = 0o077
"""Bits of a file's mode that let others than its owner in."""


@dataclass(frozen=True)
class PublicKey:
    """What signatures are checked with. ``number``: 8 bytes, chosen by chance, by which it is found."""

    number: bytes
    point: bytes

    @property
    def id(self) -> str:
        """``number`` as minisign shows it: 16 hexadecimal digits."""
        return id_of(self.number)

    @property
    def written(self) -> str:
        """One line, as `minisign -P` takes it."""
        return base64.b64encode(ALGORITHM + self.number + self.point).decode()


@dataclass(frozen=True)
class SecretKey:
    """What signatures are made with. It does not show itself."""

    public: PublicKey
    seed: bytes = field(repr=False)


def id_of(number: bytes) -> str:
    """A key's number as people see it."""
    return f"{int.from_bytes(number, 'little'):016X}"


def new_key() -> SecretKey:
    """A key of nobody yet."""
    from vitascope.bundle.signing import ed25519

    seed = ed25519.new_seed()
    return SecretKey(PublicKey(secrets.token_bytes(ID_BYTES), ed25519.public_of(seed)), seed)


def write_key(key: SecretKey, secret: Path, public: Path) -> None:
    """Write both halves to files that do not exist yet, the secret one readable by its owner alone.

    Raises InvalidInput where one exists or cannot be written; then neither is there.
    """
    inside = key.public.number + key.seed + key.public.point
    checksum = hashlib.blake2b(ALGORITHM + inside, digest_size=32).digest()
    hidden = base64.b64encode(ALGORITHM + _NO_PASSWORD + _CHECKSUM + _FOR_PASSWORDS + inside + checksum).decode()
    _write_new(public, f"{COMMENT}minisign public key {key.public.id}\n{key.public.written}\n", 0o644)
    try:
        _write_new(secret, f"{COMMENT}minisign secret key {key.public.id}\n{hidden}\n", 0o600)
    except InvalidInput:
        public.unlink()
        raise


def read_secret_key(path: Path) -> SecretKey:
    """Raises InvalidInput, which never shows what is in the file: also where others may read it."""
    from vitascope.bundle.signing import ed25519

    content = _read(path, "a secret key")
    if os.name == "posix" and (mode := path.stat().st_mode & 0o777) & _OTHERS:
        raise InvalidInput(
            f"key: {path} has mode {mode:04o}; 0600 was expected, since whoever reads it can sign as you"
        )
    expected = "a secret key without password was expected, as `vitascope bundle keygen` or `minisign -G -W` writes it"
    head, inside, checksum = content[:6], content[54:-32], content[-32:]
    if len(content) != 158 or head[:2] != ALGORITHM or head[4:] != _CHECKSUM:
        raise InvalidInput(f"key: {path} holds none; {expected}")
    if head[2:4] != _NO_PASSWORD:
        raise InvalidInput(f"key: {path} has a password; {expected}, or a signature made by `minisign -S` itself")
    number, seed, point = inside[:ID_BYTES], inside[ID_BYTES : ID_BYTES + 32], inside[ID_BYTES + 32 :]
    # minisign writes a checksum of zeros where there is no password.
    is_whole = checksum in (bytes(32), hashlib.blake2b(ALGORITHM + inside, digest_size=32).digest())
    if not is_whole or ed25519.public_of(seed) != point:
        raise InvalidInput(f"key: {path} is damaged: its checksum or its public half does not fit; {expected}")
    return SecretKey(PublicKey(number, point), seed)


def read_public_key(path: Path) -> PublicKey:
    """Raises InvalidInput."""
    content = _read(path, "a public key")
    if len(content) != len(ALGORITHM) + ID_BYTES + 32 or content[:2] != ALGORITHM:
        raise InvalidInput(f"key: {path} holds none; a public key was expected, as `vitascope bundle keygen` writes it")
    return PublicKey(content[2 : 2 + ID_BYTES], content[2 + ID_BYTES :])


def read_public_keys(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Of files, and of all `*.pub` in folders. Raises InvalidInput, also for a folder that has none."""
    found: list[PublicKey] = []
    for path in paths:
        files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
        if not files:
            raise InvalidInput(f"key: {path} has no *.pub; a folder of public keys was expected")
        found += map(read_public_key, files)
    return tuple(dict.fromkeys(found))


def decoded(line: str) -> bytes | None:
    """What a line of base64 stands for; None where it is none, or one of several ways to write the same."""
    try:
        content = base64.b64decode(line.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return content if base64.b64encode(content).decode() == line else None


def _read(path: Path, what: str) -> bytes:
    """What the second line stands for."""
    expected = f"{what} was expected, as `vitascope bundle keygen` writes it"
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_KEY_BYTES).decode().splitlines()
    except OSError as error:
        raise InvalidInput(f"key: {path} cannot be read ({error.strerror}); {expected}") from error
    except UnicodeDecodeError:
        raise InvalidInput(f"key: {path} holds none; {expected}") from None  # the cause shows bytes
    content = decoded(lines[1]) if len(lines) == 2 and lines[0].startswith(COMMENT) else None
    if content is None:
        raise InvalidInput(f"key: {path} holds none; {expected}")
    return content


def _write_new(path: Path, content: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise InvalidInput(f"key: {path} exists; a new file was expected, since a key that is lost is lost") from error
    except OSError as error:
        raise InvalidInput(f"key: {path} cannot be written ({error.strerror})") from error
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
