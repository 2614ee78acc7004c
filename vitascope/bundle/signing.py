"""Ed25519 signatures of manifests, in minisign's file formats:

public key: "Ed", key id (8 bytes), key (32)
secret key: "Ed", two zero bytes (no password), "B2", 48 bytes for password fields, key id (8), seed (32), public key
(32), and a checksum: BLAKE2b-256 of "Ed", key id, seed and public key, or zeros
signature file, four lines per signature:

    untrusted comment: ANYTHING
    base64 of "ED", key id (8 bytes), signature (64) of the BLAKE2b-512 of the manifest
    trusted comment: ANYTHING
    base64 of the signature (64) of the signature above and the trusted comment

The manifest lists every file with its SHA-256, so its signature covers the whole bundle. ``cryptography`` is imported
in the functions that need it, since most bundles are not signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitascope.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from vitascope.durable_files import atomic_path
from vitascope.errors import BundleUntrusted, InvalidInput

_KEY_ALGORITHM, _SIGNATURE_ALGORITHM = b"Ed", b"ED"
_COMMENT, _TRUSTED_COMMENT = "untrusted comment: ", "trusted comment: "
_ID_BYTES, _KEY_BYTES, _SIGNATURE_BYTES = 8, 32, 64
_NO_PASSWORD, _CHECKSUM_ALGORITHM, _PASSWORD_FIELDS = b"\0\0", b"B2", bytes(48)
_MAX_KEY_FILE_BYTES = 4096
_MAX_SIGNATURE_FILE_BYTES = 64 * 1024
_MAX_COMMENT_BYTES = 1024
_GROUP_AND_OTHERS = 0o077
_LINES = 4
_EXPECTED = "signatures of four lines each were expected, as `vitascope bundle sign` writes them"


@dataclass(frozen=True)
class PublicKey:
    """Ed25519 public key: ``key_id`` (8 random bytes) and ``key_bytes`` (32)."""

    key_id: bytes
    key_bytes: bytes

    @property
    def key_id_hex(self) -> str:
        """The id as minisign shows it, 16 hexadecimal digits."""
        return _format_key_id(self.key_id)

    @property
    def serialized(self) -> str:
        """The key as one line of base64, the argument of `minisign -P`."""
        return base64.b64encode(_KEY_ALGORITHM + self.key_id + self.key_bytes).decode()


@dataclass(frozen=True)
class SecretKey:
    """Ed25519 secret key: ``seed`` (32 bytes), which ``repr`` omits, and its public key."""

    public: PublicKey
    seed: bytes = field(repr=False)


@dataclass(frozen=True)
class Signature:
    """Signature of a manifest.

    Attributes:
        key_id: Id of the signing key, as claimed by the file, 8 bytes.
        signature: Signature of the manifest's BLAKE2b-512, 64 bytes.
        comment: Trusted comment, which ``comment_signature`` covers.
        comment_signature: Signature of ``signature`` and ``comment``, 64 bytes.
        untrusted_comment: Comment on the first line, which no signature covers.
    """

    key_id: bytes
    signature: bytes
    comment: str
    comment_signature: bytes
    untrusted_comment: str = "signature of a bundle's manifest"

    @property
    def key_id_hex(self) -> str:
        """The key id as minisign shows it, 16 hexadecimal digits."""
        return _format_key_id(self.key_id)

    @property
    def serialized(self) -> str:
        """The four lines of the signature file."""
        first = base64.b64encode(_SIGNATURE_ALGORITHM + self.key_id + self.signature).decode()
        second = base64.b64encode(self.comment_signature).decode()
        return f"{_COMMENT}{self.untrusted_comment}\n{first}\n{_TRUSTED_COMMENT}{self.comment}\n{second}\n"

    def is_valid(self, manifest: bytes, key: PublicKey) -> bool:
        """Return whether this is a valid signature, by ``key``, of ``manifest`` (bytes) and of the comment."""
        return (
            self.key_id == key.key_id
            and _is_valid(key.key_bytes, _digest(manifest), self.signature)
            and _is_valid(key.key_bytes, self.signature + self.comment.encode(), self.comment_signature)
        )


def generate_key() -> SecretKey:
    """Generate an Ed25519 key pair with a random id."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    return SecretKey(PublicKey(secrets.token_bytes(_ID_BYTES), _public_bytes(seed)), seed)


def write_key(key: SecretKey, secret: Path, public: Path) -> None:
    """Write a key pair to two new files; only the owner can read the secret key.

    Raises:
        InvalidInput: A file exists or cannot be written; then no new file remains.
    """
    body = key.public.key_id + key.seed + key.public.key_bytes
    checksum = hashlib.blake2b(_KEY_ALGORITHM + body, digest_size=32).digest()
    header = _KEY_ALGORITHM + _NO_PASSWORD + _CHECKSUM_ALGORITHM + _PASSWORD_FIELDS
    content = base64.b64encode(header + body + checksum).decode()
    name = key.public.key_id_hex
    _write_new(public, f"{_COMMENT}minisign public key {name}\n{key.public.serialized}\n", 0o644)
    try:
        _write_new(secret, f"{_COMMENT}minisign secret key {name}\n{content}\n", 0o600)
    except InvalidInput:
        public.unlink()
        raise


def read_secret_key(path: Path) -> SecretKey:
    """Read a secret key without password.

    Raises:
        InvalidInput: The file is not a secret key, has a password, is damaged, or other users can read it. The message
            never contains key material.
    """
    content = _read_key_file(path, "a secret key")
    if os.name == "posix" and (mode := path.stat().st_mode & 0o777) & _GROUP_AND_OTHERS:
        raise InvalidInput(f"key: {path} has mode {mode:04o}; 0600 was expected, so that only you can read it")
    expected = "a secret key without password was expected, as `vitascope bundle keygen` or `minisign -G -W` writes it"
    header, body, checksum = content[:6], content[54:-32], content[-32:]
    if len(content) != 158 or header[:2] != _KEY_ALGORITHM or header[4:] != _CHECKSUM_ALGORITHM:
        raise InvalidInput(f"key: {path} is not a key file; {expected}")
    if header[2:4] != _NO_PASSWORD:
        raise InvalidInput(f"key: {path} has a password; {expected}, or a signature made by `minisign -S` itself")
    key_id, seed, public = body[:_ID_BYTES], body[_ID_BYTES:-_KEY_BYTES], body[-_KEY_BYTES:]
    # minisign writes a checksum of zeros where there is no password.
    is_intact = checksum in (bytes(32), hashlib.blake2b(_KEY_ALGORITHM + body, digest_size=32).digest())
    if not is_intact or _public_bytes(seed) != public:
        raise InvalidInput(f"key: {path} is damaged: checksum or public key do not match; {expected}")
    return SecretKey(PublicKey(key_id, public), seed)


def read_public_key(path: Path) -> PublicKey:
    """Read a public key. Raises InvalidInput if the file is not one."""
    content = _read_key_file(path, "a public key")
    if len(content) != len(_KEY_ALGORITHM) + _ID_BYTES + _KEY_BYTES or content[:2] != _KEY_ALGORITHM:
        raise InvalidInput(
            f"key: {path} is not a key file; a public key was expected, as `vitascope bundle keygen` writes it"
        )
    return PublicKey(content[2 : 2 + _ID_BYTES], content[2 + _ID_BYTES :])


def read_public_keys(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Read public keys from files, and from all `*.pub` files in folders; duplicates are removed.

    Raises:
        InvalidInput: A file is not a public key, or a folder contains none.
    """
    keys: list[PublicKey] = []
    for path in paths:
        files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
        if not files:
            raise InvalidInput(f"key: {path} has no *.pub; a folder of public keys was expected")
        keys += map(read_public_key, files)
    return tuple(dict.fromkeys(keys))


def sign(manifest: bytes, key: SecretKey, comment: str | None = None) -> Signature:
    """Sign a manifest.

    Args:
        manifest: Content of the manifest.
        key: Secret key.
        comment: Signed comment, one line; None: the time and the file name.

    Raises:
        InvalidInput: The comment has several lines or is too long.
    """
    if comment is None:
        comment = f"timestamp:{int(time.time())}\tfile:{MANIFEST_NAME}\thashed"
    is_line = len(comment.splitlines()) <= 1 and comment.replace("\t", " ").isprintable()
    if not is_line or len(comment.encode()) > _MAX_COMMENT_BYTES:
        raise InvalidInput(f"comment: {comment[:80]!r}; one line of at most {_MAX_COMMENT_BYTES} bytes was expected")
    signature = _sign(key.seed, _digest(manifest))
    return Signature(key.public.key_id, signature, comment, _sign(key.seed, signature + comment.encode()))


def read_signatures(folder: Path) -> list[Signature]:
    """Read the signatures of a bundle without verifying them; empty if it is not signed.

    Raises:
        BundleUntrusted: The file is not a signature file.
    """
    path = folder / SIGNATURE_NAME
    if not path.exists():
        return []
    if not path.is_file():  # opening a pipe would wait for a writer
        raise BundleUntrusted(f"{SIGNATURE_NAME}: not a regular file; {_EXPECTED}")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SIGNATURE_FILE_BYTES + 1)
    except OSError as error:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_SIGNATURE_FILE_BYTES:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: more than {_MAX_SIGNATURE_FILE_BYTES} bytes; {_EXPECTED}")
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: not UTF-8 text; {_EXPECTED}") from error
    if lines.pop() or not lines or len(lines) % _LINES:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: {len(lines)} complete lines; {_EXPECTED}")
    return [_parse_signature(lines[first : first + _LINES], first) for first in range(0, len(lines), _LINES)]


def add_signature(folder: Path, signature: Signature) -> None:
    """Add a signature to a bundle, replacing an earlier one by the same key.

    Raises:
        InvalidInput: The file cannot be written.
        BundleUntrusted: The existing file is not a signature file.
    """
    others = [other for other in read_signatures(folder) if other.key_id != signature.key_id]
    path = folder / SIGNATURE_NAME
    try:
        with atomic_path(path) as temp_path:
            temp_path.write_bytes("".join(each.serialized for each in [*others, signature]).encode())
    except OSError as error:
        raise InvalidInput(f"bundle: {path} cannot be written ({error.strerror or error})") from error


def require_trusted(folder: Path, manifest: bytes, trusted: Sequence[PublicKey]) -> Signature:
    """Return the first valid signature of a manifest by one of the trusted keys.

    Args:
        folder: Folder of the bundle.
        manifest: Content of the manifest.
        trusted: Trusted public keys.

    Raises:
        BundleUntrusted: No trusted key has signed the manifest, or the signature file is malformed.
    """
    signatures = read_signatures(folder)
    names = ", ".join(key.key_id_hex for key in trusted) or "none"
    expected = f"a signature by one of the trusted keys ({names}) was expected"
    if not signatures:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: missing; {expected}")
    for signature in signatures:
        if any(signature.is_valid(manifest, key) for key in trusted):
            return signature
    invalid = [each.key_id_hex for each in signatures if any(each.key_id == key.key_id for key in trusted)]
    if invalid:
        raise BundleUntrusted(
            f"{SIGNATURE_NAME}: the signature by {', '.join(invalid)} is not of this {MANIFEST_NAME}, or by another "
            f"key with that id; {expected}"
        )
    raise BundleUntrusted(f"{SIGNATURE_NAME}: signed by {', '.join(s.key_id_hex for s in signatures)}; {expected}")


def _parse_signature(lines: Sequence[str], first: int) -> Signature:
    """Parse four lines; ``first``: number of lines of the file before them."""
    untrusted, signature_line, trusted, comment_line = lines
    signature, comment_signature = _decode_base64(signature_line), _decode_base64(comment_line)
    if not untrusted.startswith(_COMMENT) or not trusted.startswith(_TRUSTED_COMMENT):
        raise BundleUntrusted(f"{SIGNATURE_NAME}: line {first + 1} or {first + 3} is not a comment; {_EXPECTED}")
    header_bytes = len(_SIGNATURE_ALGORITHM) + _ID_BYTES
    if (
        signature is None
        or len(signature) != header_bytes + _SIGNATURE_BYTES
        or not signature.startswith(_SIGNATURE_ALGORITHM)
    ):
        raise BundleUntrusted(f"{SIGNATURE_NAME}: line {first + 2} is not a signature of a digest (ED); {_EXPECTED}")
    if comment_signature is None or len(comment_signature) != _SIGNATURE_BYTES:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: line {first + 4} is not a signature; {_EXPECTED}")
    return Signature(
        key_id=signature[len(_SIGNATURE_ALGORITHM) : header_bytes],
        signature=signature[header_bytes:],
        comment=trusted.removeprefix(_TRUSTED_COMMENT),
        comment_signature=comment_signature,
        untrusted_comment=untrusted.removeprefix(_COMMENT),
    )


def _read_key_file(path: Path, kind: str) -> bytes:
    expected = f"{kind} was expected, as `vitascope bundle keygen` writes it"
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_KEY_FILE_BYTES).decode().splitlines()
    except OSError as error:
        raise InvalidInput(f"key: {path} cannot be read ({error.strerror}); {expected}") from error
    except UnicodeDecodeError:
        raise InvalidInput(f"key: {path} is not a key file; {expected}") from None  # the cause shows bytes
    content = _decode_base64(lines[1]) if len(lines) == 2 and lines[0].startswith(_COMMENT) else None
    if content is None:
        raise InvalidInput(f"key: {path} is not a key file; {expected}")
    return content


def _write_new(path: Path, content: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise InvalidInput(f"key: {path} exists; a new file was expected, since keys are never overwritten") from error
    except OSError as error:
        raise InvalidInput(f"key: {path} cannot be written ({error.strerror})") from error
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _format_key_id(key_id: bytes) -> str:
    return f"{int.from_bytes(key_id, 'little'):016X}"


def _decode_base64(line: str) -> bytes | None:
    """Return None unless the line is canonical base64."""
    try:
        content = base64.b64decode(line.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return content if base64.b64encode(content).decode() == line else None


def _digest(manifest: bytes) -> bytes:
    return hashlib.blake2b(manifest).digest()


def _public_bytes(seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _sign(seed: bytes, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def _is_valid(public: bytes, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
        return False
    return True
