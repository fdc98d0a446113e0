"""Where snapshots of weights lie beside Kafka: a folder, or a bucket that speaks S3, by URL.

Each snapshot is three files, `VERSION-snapshot-NAME` with the endings `.safetensors`, `.json` and `.json.ed25519`; NAME are the first
digits of the weights' SHA-256. In a folder each is written aside and renamed, in a bucket an upload shows only when it is whole; the
manifest comes last, so what a manifest names is there. What candidates the gate refused lies beside them, as plain files.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from headrace.schemas import InvalidMessage, ModelUpdate, decode
from headrace.streams.signing import Forged, TrustedKeys

log = logging.getLogger(__name__)

KEPT_SNAPSHOTS = 10
PAYLOAD, MANIFEST, SIGNATURE = ".safetensors", ".json", ".json.ed25519"
_NAMED = re.compile(r"(?P<version>\d{10,16})-snapshot-[0-9a-f]{12}(?P<ending>\.safetensors|\.json|\.json\.ed25519)")


class WeightStoreProblem(OSError):
    """The store cannot be reached or used; the text says where and why."""


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as it was signed: its exact bytes and the signature, None where it has none."""

    update: ModelUpdate
    value: bytes
    signature: bytes | None


class WeightStore:
    """Snapshots by version. One learner writes and prunes, any number of readers read.

    With `trusted` keys only manifests that one of them has signed are seen. Errors of the network or the disk are OSErrors.
    """

    def __init__(self, url: str | Path, trusted: TrustedKeys | None = None) -> None:
        self.trusted = trusted
        self._system, self._root, self._local = _file_system(str(url))

    def put(self, update: ModelUpdate, payload: bytes, value: bytes, signature: bytes | None) -> str:
        """Store a snapshot with its manifest's signed bytes, and return the payload's place in the store."""
        name = _name(update)
        self.put_file(name + PAYLOAD, payload)
        if signature is not None:
            self.put_file(name + SIGNATURE, signature)
        self.put_file(name + MANIFEST, value)
        return name + PAYLOAD

    def place_of(self, update: ModelUpdate) -> str:
        """Return where in the store the payload of a snapshot lies, or will lie; its manifest names it as `payload_uri`."""
        return _name(update) + PAYLOAD

    def manifests(self) -> Iterator[StoredManifest]:
        """Yield the manifests of snapshots that can be trusted, the newest version first."""
        for _, name in sorted(self._versions(), reverse=True):
            stored = self._manifest(name)
            if stored is not None:
                yield stored

    def snapshot(self, version: int) -> tuple[ModelUpdate, bytes] | None:
        """Return the snapshot of a version, whole and as its manifest says, or None where there is none such."""
        for found, name in sorted(self._versions(), reverse=True):
            if found == version and (stored := self._manifest(name)) and (payload := self.payload(stored.update)) is not None:
                return stored.update, payload
        return None

    def newest(self) -> tuple[ModelUpdate, bytes] | None:
        """Return the newest snapshot that is whole, or None where there is none."""
        for stored in self.manifests():
            payload = self.payload(stored.update)
            if payload is not None:
                return stored.update, payload
        return None

    def payload(self, update: ModelUpdate) -> bytes | None:
        """Return the bytes of a snapshot, checked by their SHA-256, or None where they are missing or damaged."""
        try:
            payload = self.read_file(_name(update) + PAYLOAD)
        except FileNotFoundError:
            return None
        if hashlib.sha256(payload).hexdigest() == update.payload_sha256:
            return payload
        log.warning("a stored payload is damaged", extra={"version": update.version, "bytes": len(payload)})
        return None

    def prune(self, keep: Collection[int] = (), newest: int = KEPT_SNAPSHOTS) -> list[int]:
        """Delete all snapshots but the `newest` so many and those of the versions to `keep`; return the versions deleted.

        Only the writer may call it: leftovers of a writer that died are cleared away too.
        """
        names = self.files()
        versions = sorted({int(match["version"]) for name in names if (match := _NAMED.fullmatch(name)) and match["ending"] == MANIFEST})
        kept = {*versions[len(versions) - min(newest, len(versions)) :], *keep}
        gone: set[int] = set()
        # The manifest goes first: what a manifest names is there at any moment.
        for name in sorted(names, key=lambda name: not name.endswith(MANIFEST)):
            match = _NAMED.fullmatch(name)
            if match and int(match["version"]) not in kept:
                self.delete_file(name)
                gone.add(int(match["version"]))
            elif name.startswith("."):
                self.delete_file(name)
        return sorted(gone)

    def put_file(self, path: str, content: bytes) -> None:
        """Write a file whole or not at all; it replaces one that is there. Its folders are created."""
        place = PurePosixPath(self._place(path))
        if not self._local:
            self._write(str(place), content)
            return
        self._system.create_dir(str(place.parent), recursive=True)
        aside = str(place.with_name(f".{place.name}.part"))
        self._write(aside, content)
        self._system.move(aside, str(place))

    def read_file(self, path: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError."""
        with self._system.open_input_stream(self._place(path)) as file:
            return bytes(file.read())

    def delete_file(self, path: str) -> None:
        """Delete a file; that it is gone already is no error."""
        try:
            self._system.delete_file(self._place(path))
        except FileNotFoundError:
            return

    def folders(self, folder: str = "") -> list[str]:
        """Return the paths of the folders that lie in a folder itself, sorted; none where there is no such folder."""
        return self._entries(folder, fs.FileType.Directory)

    def files(self, folder: str = "") -> list[str]:
        """Return the paths of the files that lie in a folder itself, sorted; none where there is no such folder."""
        return self._entries(folder, fs.FileType.File)

    def _entries(self, folder: str, kind: fs.FileType) -> list[str]:
        selector = fs.FileSelector(self._place(folder) if folder else self._root, allow_not_found=True)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        return sorted(prefix + entry.base_name for entry in self._system.get_file_info(selector) if entry.type == kind)

    def _versions(self) -> Iterator[tuple[int, str]]:
        for name in self.files():
            match = _NAMED.fullmatch(name)
            if match and match["ending"] == MANIFEST:
                yield int(match["version"]), name.removesuffix(MANIFEST)

    def _manifest(self, name: str) -> StoredManifest | None:
        try:
            value = self.read_file(name + MANIFEST)
        except FileNotFoundError:
            # Pruned since it was listed.
            return None
        try:
            signature: bytes | None = self.read_file(name + SIGNATURE)
        except FileNotFoundError:
            signature = None
        try:
            update = decode(ModelUpdate, value)
            if _name(update) != name:
                raise Forged("bad signature", f"it is the manifest of {_name(update)}")
            if self.trusted is not None:
                self.trusted.verify(update.key_id, value, signature)
        except (InvalidMessage, Forged) as error:
            log.warning("a stored manifest is refused", extra={"file": name + MANIFEST, "reason": str(error)})
            return None
        return StoredManifest(update, value, signature)

    def _write(self, place: str, content: bytes) -> None:
        with self._system.open_output_stream(place) as file:
            file.write(content)

    def _place(self, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or any(part in ("..", "/") for part in parts):
            raise ValueError(f"path: a path below the store was expected; the value is {path!r}")
        return str(PurePosixPath(self._root, *parts))


def _file_system(url: str) -> tuple[Any, str, bool]:
    if "://" not in url:
        return fs.LocalFileSystem(), str(Path(url).expanduser().absolute()), True
    try:
        files, root = fs.FileSystem.from_uri(url)
    except (ValueError, OSError) as error:
        raise WeightStoreProblem(
            f"the weight store cannot be used: {error}; a folder, or a URL such as s3://bucket/prefix, was expected"
        ) from None
    return files, root, isinstance(files, fs.LocalFileSystem)


def _name(update: ModelUpdate) -> str:
    return f"{update.version:010d}-{update.kind}-{update.weights_sha256[:12]}"
