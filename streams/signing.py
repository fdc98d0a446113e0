"""Who may tell the scorers what to serve: ed25519 signatures over the exact bytes of a record's value.

The message names its key (`key_id`: the first 16 hex digits of the SHA-256 of the raw public key), and the record's header `ed25519`
holds the signature in base64. Keys are rotated by trusting the new one beside the old one, and withdrawn by a line in `revoked`.
"""

import base64
import binascii
import hashlib
import logging
import os
import re
import threading
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

log = logging.getLogger(__name__)

SIGNATURE_HEADER = "ed25519"
REVOKED = "revoked"
SIGNING_FILE, TRUSTED_FOLDER = "signing.pem", "trusted"

Fault = Literal["unsigned", "unknown key", "revoked", "bad signature"]


class Forged(ValueError):
    """A message that no trusted key has signed. `fault` tells in which way."""

    def __init__(self, fault: Fault, told: str) -> None:
        super().__init__(f"{fault}: {told}")
        self.fault = fault


class KeyProblem(ValueError):
    """A key file that cannot be used; the text says which and what to do."""


class SigningKey:
    """A private key. Whoever has its file may publish weights and releases: it is readable by its owner alone."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key_id = key_id_of(private.public_key())

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Return the key in a PEM file. Raises KeyProblem where it holds none, or others than its owner may read it."""
        try:
            if path.stat().st_mode & 0o077:
                raise KeyProblem(f"{path} can be read by others than its owner; allow it to the owner alone with: chmod 600 {path}")
            private = load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            raise KeyProblem(f"there is no signing key at {path}; create one with: headrace keys create") from None
        except (ValueError, TypeError) as error:
            if isinstance(error, KeyProblem):
                raise
            raise KeyProblem(f"{path}: a PEM file with an ed25519 private key without a password was expected: {error}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyProblem(f"{path}: an ed25519 key was expected, not {type(private).__name__}")
        return cls(private)

    @classmethod
    def create(cls, folder: Path) -> "SigningKey":
        """Create a pair as `signing.pem` and `trusted/KEYID.pem` in a folder. Raises KeyProblem where a signing key lies there."""
        return cls.create_at(folder / SIGNING_FILE, folder / TRUSTED_FOLDER)

    @classmethod
    def create_at(cls, path: Path, trusted: Path) -> "SigningKey":
        """Create a private key at `path` and trust its public one. Raises KeyProblem where there is a file already."""
        private = Ed25519PrivateKey.generate()
        key = cls(private)
        key.trust(trusted)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and linked: two that start at once must not sign with different keys, nor read half a file.
        aside = path.with_name(f"{path.name}.{os.getpid()}-{key.key_id}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            os.link(aside, path)
        except FileExistsError:
            (trusted / f"{key.key_id}.pem").unlink()
            raise KeyProblem(f"{path} is there already; move it away first, or name another file") from None
        finally:
            aside.unlink()
        return key

    def trust(self, folder: Path) -> Path:
        """Put the public key into a folder of trusted ones and return its file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.key_id}.pem"
        path.write_bytes(self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path

    def sign(self, value: bytes) -> bytes:
        """Return the signature of a value in base64, as the header `ed25519` holds it."""
        return base64.b64encode(self._private.sign(value))


class TrustedKeys:
    """The public keys in a folder, `KEYID.pem` each, without those that its file `revoked` names, one key id a line.

    The folder is read again when its files change; any thread may verify. A file that is not named by its key's id is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: object = None
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._revoked: frozenset[str] = frozenset()

    def verify(self, key_id: str | None, value: bytes, signature: bytes | str | None) -> None:
        """Return where a trusted key has signed the value. Raises Forged with its fault otherwise."""
        if not key_id or not signature:
            raise Forged("unsigned", "the message names no key" if not key_id else "the record has no header ed25519")
        keys, revoked = self._current()
        if key_id in revoked:
            raise Forged("revoked", f"key {key_id!r} is revoked in {self.folder / REVOKED}")
        if key_id not in keys:
            raise Forged("unknown key", f"there is no key {key_id!r} in {self.folder}; trust it there where it is one of yours")
        try:
            raw = base64.b64decode(signature, validate=True)
            # The last digit has bits that mean nothing: one signature, one spelling.
            if base64.b64encode(raw) != (signature.encode() if isinstance(signature, str) else signature):
                raise InvalidSignature
            keys[key_id].verify(raw, value)
        except (InvalidSignature, binascii.Error, ValueError):
            raise Forged("bad signature", f"it is not that of key {key_id!r} over these bytes") from None

    def key_ids(self) -> dict[str, bool]:
        """Return the ids of the keys at hand, sorted, and whether each is revoked."""
        keys, revoked = self._current()
        return {key_id: key_id in revoked for key_id in sorted(keys)}

    def revoke(self, key_id: str) -> None:
        """Trust a key no longer. Raises KeyProblem where the folder has no such key."""
        if key_id not in self.key_ids():
            raise KeyProblem(f"there is no key {key_id!r} in {self.folder}; see: headrace keys list")
        with (self.folder / REVOKED).open("a") as file:
            file.write(f"{key_id}\n")

    def _current(self) -> tuple[dict[str, Ed25519PublicKey], frozenset[str]]:
        with self._lock:
            seen = _state_of(self.folder)
            if seen != self._seen:
                self._keys = _read_keys(self.folder)
                self._revoked = _read_revoked(self.folder / REVOKED)
                self._seen = seen
            return self._keys, self._revoked


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the name of a public key: 16 hex digits."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def ensure_keys(signing: Path, trusted: Path) -> None:
    """Create a pair of keys where there is no private one yet; for a machine on its own, such as the demo's."""
    if not signing.exists():
        try:
            SigningKey.create_at(signing, trusted)
        except KeyProblem:
            # Another process was faster by a moment.
            SigningKey.load(signing).trust(trusted)


def _state_of(folder: Path) -> object:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_size, entry.inode()) for entry in entries)
    except FileNotFoundError:
        return ()


def _read_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    keys: dict[str, Ed25519PublicKey] = {}
    for path in sorted(folder.glob("*.pem")):
        try:
            key = load_pem_public_key(path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("a trusted key cannot be read", extra={"file": str(path), "reason": str(error)})
            continue
        if isinstance(key, Ed25519PublicKey) and key_id_of(key) == path.stem:
            keys[path.stem] = key
        else:
            log.warning("a trusted key is passed over", extra={"file": str(path), "reason": "it is no ed25519 key named by its id"})
    return keys


def _read_revoked(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(match[0] for line in lines if (match := re.match(r"[0-9a-f]{16}", line.strip())))
