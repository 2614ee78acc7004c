"""Signatures of a manifest, in a file beside it: for each, four lines as minisign writes them.

    untrusted comment: ANYTHING
    base64 of "ED", key id (8 bytes), signature (64) of the BLAKE2b-512 of the manifest
    trusted comment: ANYTHING
    base64 of the signature (64) of the signature before it and this comment

The manifest names every file of the bundle with its SHA-256, so that a signature of it is one of the whole bundle.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitascope.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from vitascope.bundle.signing.keys import COMMENT, ID_BYTES, PublicKey, SecretKey, decoded, id_of
from vitascope.durable_files import atomic_path
from vitascope.errors import BundleUntrusted, InvalidInput

ALGORITHM = b"ED"
TRUSTED_COMMENT = "trusted comment: "
LINES = 4
MAX_BYTES = 64 * 1024
"""Of the file: room for a hundred signatures."""
_EXPECTED = "signatures of four lines each were expected, as `vitascope bundle sign` writes them"


@dataclass(frozen=True)
class Signature:
    """Of a manifest, by the key of this number. ``comment``: signed, too, and known to be true once it ``holds``."""

    number: bytes
    made: bytes
    comment: str
    comment_made: bytes
    untrusted_comment: str = "signature of a bundle's manifest"

    @property
    def key_id(self) -> str:
        return id_of(self.number)

    def holds(self, manifest: bytes, key: PublicKey) -> bool:
        """Whether ``key`` made it, of these bytes and this comment."""
        from vitascope.bundle.signing import ed25519

        return (
            self.number == key.number
            and ed25519.holds(key.point, _digest(manifest), self.made)
            and ed25519.holds(key.point, self.made + self.comment.encode(), self.comment_made)
        )

    @property
    def written(self) -> str:
        """Its four lines."""
        first = base64.b64encode(ALGORITHM + self.number + self.made).decode()
        second = base64.b64encode(self.comment_made).decode()
        return f"{COMMENT}{self.untrusted_comment}\n{first}\n{TRUSTED_COMMENT}{self.comment}\n{second}\n"


def sign(manifest: bytes, key: SecretKey, comment: str | None = None) -> Signature:
    """``comment``: one line that is signed with it; by default the time and the name of the file.

    Raises InvalidInput for a comment of several lines.
    """
    from vitascope.bundle.signing import ed25519

    stated = f"timestamp:{int(time.time())}\tfile:{MANIFEST_NAME}\thashed" if comment is None else comment
    if len(stated.splitlines()) > 1 or not stated.replace("\t", " ").isprintable() or len(stated.encode()) > 1024:
        raise InvalidInput(f"comment: {stated[:80]!r}; one line of at most 1024 bytes was expected")
    made = ed25519.sign(key.seed, _digest(manifest))
    return Signature(key.public.number, made, stated, ed25519.sign(key.seed, made + stated.encode()))


def read_signatures(folder: Path) -> list[Signature]:
    """Those beside a bundle's manifest, none where it was not signed. Raises BundleUntrusted for what is none."""
    try:
        with (folder / SIGNATURE_NAME).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: more than {MAX_BYTES} bytes; {_EXPECTED}")
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: no text; {_EXPECTED}") from error
    if lines.pop() or not lines or len(lines) % LINES:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: {len(lines)} whole lines; {_EXPECTED}")
    return [_signature(lines[first : first + LINES], first) for first in range(0, len(lines), LINES)]


def add_signature(folder: Path, signature: Signature) -> None:
    """Put it beside the manifest, in the place of an earlier one by the same key.

    Raises InvalidInput where it cannot be written, and BundleUntrusted where something else than signatures is there.
    """
    others = [one for one in read_signatures(folder) if one.number != signature.number]
    path = folder / SIGNATURE_NAME
    try:
        with atomic_path(path) as temp_path:
            temp_path.write_bytes("".join(one.written for one in [*others, signature]).encode())
    except OSError as error:
        raise InvalidInput(f"bundle: {path} cannot be written ({error.strerror or error})") from error


def require_trusted(folder: Path, manifest: bytes, trusted: Sequence[PublicKey]) -> Signature:
    """The signature of ``manifest`` by one of the ``trusted`` keys. Raises BundleUntrusted where there is none."""
    found = read_signatures(folder)
    expected = f"a signature by one of the trusted keys ({', '.join(key.id for key in trusted) or 'none'}) was expected"
    if not found:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: missing; {expected}")
    for signature in found:
        if any(signature.holds(manifest, key) for key in trusted):
            return signature
    known = [one.key_id for one in found if any(one.number == key.number for key in trusted)]
    if known:
        raise BundleUntrusted(
            f"{SIGNATURE_NAME}: the signature by {', '.join(known)} is not of this {MANIFEST_NAME}, or by another key "
            f"of that id; {expected}"
        )
    raise BundleUntrusted(f"{SIGNATURE_NAME}: signed by {', '.join(one.key_id for one in found)}; {expected}")


def _signature(lines: Sequence[str], first: int) -> Signature:
    """``first``: how many lines of the file are before it."""
    untrusted, signed, trusted, comment_signed = lines
    made, comment_made = decoded(signed), decoded(comment_signed)
    if not untrusted.startswith(COMMENT) or not trusted.startswith(TRUSTED_COMMENT):
        raise BundleUntrusted(f"{SIGNATURE_NAME}: line {first + 1} or {first + 3} is no comment; {_EXPECTED}")
    if made is None or len(made) != len(ALGORITHM) + ID_BYTES + 64 or made[:2] != ALGORITHM:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: line {first + 2} is no signature of a digest (ED); {_EXPECTED}")
    if comment_made is None or len(comment_made) != 64:
        raise BundleUntrusted(f"{SIGNATURE_NAME}: line {first + 4} is no signature; {_EXPECTED}")
    return Signature(
        number=made[2 : 2 + ID_BYTES],
        made=made[2 + ID_BYTES :],
        comment=trusted.removeprefix(TRUSTED_COMMENT),
        comment_made=comment_made,
        untrusted_comment=untrusted.removeprefix(COMMENT),
    )


def _digest(manifest: bytes) -> bytes:
    return hashlib.blake2b(manifest).digest()
