"""The weight store, alike in a folder and in a bucket: what it names is there and whole, and only what is trusted is seen."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from headrace.deploy.bench.manifests import manifest_of
from headrace.schemas import ModelUpdate, encode
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.weight_store import WeightStore, WeightStoreProblem


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an empty bucket on a server of this machine that speaks S3."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"s3://testing:testing@headrace-weights/chain?scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> WeightStore:
    if request.param == "folder":
        return WeightStore(tmp_path / "weights")
    url: str = request.getfixturevalue("s3")
    made = WeightStore(url.replace("/chain?", f"/{tmp_path.name}?"))
    made._system.create_dir("headrace-weights")
    return made


def snapshot(version: int, key: SigningKey | None = None, content: bytes = b"weights") -> tuple[ModelUpdate, bytes]:
    payload = content + str(version).encode()
    name = hashlib.sha256(payload).hexdigest()
    key_id = key.key_id if key else None
    return manifest_of(payload, "snapshot", (version, name), version, name, created_ms=1, key_id=key_id), payload


def put(store: WeightStore, *versions: int, key: SigningKey | None = None) -> None:
    for version in versions:
        update, payload = snapshot(version, key)
        value = encode(update)
        store.put(update, payload, value, key.sign(value) if key else None)


def versions(store: WeightStore) -> list[int]:
    return [stored.update.version for stored in store.manifests()]


def test_a_snapshot_is_read_back_by_its_version_and_as_the_newest(store: WeightStore) -> None:
    assert (store.newest(), store.snapshot(1), versions(store)) == (None, None, [])
    put(store, 20, 100, 40)
    assert versions(store) == [100, 40, 20]
    assert store.snapshot(40) == snapshot(40)
    assert store.newest() == snapshot(100)
    assert store.snapshot(41) is None
    assert store.read_file(store.place_of(snapshot(20)[0])) == b"weights20"


def test_the_newest_are_kept_and_those_that_are_named(store: WeightStore) -> None:
    put(store, *range(1, 8))
    store.put_file("quarantine/3/why.json", b"{}")
    assert store.prune(keep=[2], newest=3) == [1, 3, 4]
    assert versions(store) == [7, 6, 5, 2]
    assert len(store.files()) == 4 * 2
    assert store.snapshot(2) == snapshot(2)
    assert store.files("quarantine/3") == ["quarantine/3/why.json"]
    assert store.prune(newest=0) == [2, 5, 6, 7]


def test_a_damaged_or_missing_payload_is_passed_over_for_the_one_before(store: WeightStore) -> None:
    put(store, 1, 2, 3)
    store.put_file(store.place_of(snapshot(3)[0]), b"weights4")
    store.delete_file(store.place_of(snapshot(2)[0]))
    assert (store.snapshot(3), store.snapshot(2)) == (None, None)
    assert store.newest() == snapshot(1)


def test_only_manifests_that_a_trusted_key_has_signed_are_seen(store: WeightStore, tmp_path: Path) -> None:
    key, stranger = SigningKey.create(tmp_path / "keys"), SigningKey.create(tmp_path / "other")
    put(store, 1, key=key)
    put(store, 2, key=stranger)
    put(store, 3)
    update, payload = snapshot(4, key)
    store.put(update, payload, encode(update).replace(b"next_item", b"other_one"), key.sign(encode(update)))
    store.put_file("0000000005-snapshot-000000000000.json", b"no manifest")
    store.put_file("0000000006-snapshot-000000000000.json", encode(snapshot(1, key)[0]))
    assert versions(store) == [4, 3, 2, 1]
    store.trusted = TrustedKeys(tmp_path / "keys/trusted")
    assert versions(store) == [1]


def test_files_of_any_kind_can_be_written_replaced_listed_and_deleted(store: WeightStore) -> None:
    assert store.files("quarantine") == store.folders("quarantine") == []
    for path in ("quarantine/b/batch", "quarantine/a/why.json", "quarantine/index", "top"):
        store.put_file(path, path.encode())
    store.put_file("quarantine/index", b"new")
    assert store.read_file("quarantine/index") == b"new"
    assert store.files("quarantine") == ["quarantine/index"]
    assert store.folders("quarantine") == ["quarantine/a", "quarantine/b"]
    assert store.files() == ["top"]
    store.delete_file("top")
    store.delete_file("top")
    with pytest.raises(FileNotFoundError):
        store.read_file("top")
    for path in ("../outside", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="below the store"):
            store.put_file(path, b"")


def test_what_a_writer_that_died_left_behind_is_never_seen_and_cleared_away(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    put(store, 1)
    (tmp_path / ".0000000002-snapshot-000000000000.safetensors.part").write_bytes(b"half")
    (tmp_path / f"0000000002-snapshot-{snapshot(2)[0].weights_sha256[:12]}.safetensors").write_bytes(b"weights2")
    assert versions(store) == [1]
    store.prune()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_url_that_cannot_be_used_is_told_of() -> None:
    with pytest.raises(WeightStoreProblem, match="s3://bucket/prefix"):
        WeightStore("nothing://here")
