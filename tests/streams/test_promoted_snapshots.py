"""A stable version lies whole in the weight store, whether or not a snapshot of it ever went out."""

from pathlib import Path

from weights_chain import Chain

from headrace.online_model.compression.packed import unpacked
from headrace.online_model.weights import ModelCopy, snapshot_payload
from headrace.streams.promoted_snapshots import PAUSE_S, PromotedSnapshots
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.stable_weights import StableWeights
from headrace.streams.weight_store import WeightStore


def test_a_version_that_went_out_as_a_delta_is_made_whole_and_stored_once(fresh_topics: str, tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "keys")
    trusted = TrustedKeys(tmp_path / "keys/trusted")
    store = WeightStore(tmp_path / "weights", trusted)
    chain = Chain(fresh_topics, signing=key, store=store)
    first = chain.snapshot()
    second, third = chain.delta(), chain.delta("new")
    now_s = [0.0]
    promoted = PromotedSnapshots(chain.publisher, StableWeights(fresh_topics, "test", store, trusted), lambda: now_s[0], store)
    chain.publisher.kept = {2}
    promoted.see(2, second.weights_sha256)
    promoted.see(3, third.weights_sha256)
    promoted.join(30.0)
    assert [one.update.version for one in store.manifests()] == [2, 1], "one at a time, and not all that follow at once"
    found = store.snapshot(2)
    assert found is not None
    copy = ModelCopy()
    copy.apply(*found)
    assert snapshot_payload(copy) == snapshot_payload(chain.at(2))
    now_s[0] = PAUSE_S
    promoted.see(3, third.weights_sha256)
    promoted.join(30.0)
    assert [one.update.version for one in store.manifests()] == [3, 2, 1]
    now_s[0] = 2 * PAUSE_S
    promoted.see(1, first.weights_sha256)
    promoted.join(30.0)
    assert [one.update.version for one in store.manifests()] == [3, 2, 1], "that one was there"
    small = [path for path in store.files("compressed") if path.startswith(f"compressed/{2:012d}-{second.weights_sha256[:16]}")]
    assert [path.rsplit("-", 1)[1] for path in small] == ["int4.safetensors", "int8.safetensors"]
    served = unpacked(store.read_file(small[1]))
    assert served.items == chain.at(2).items
    assert (served.units * chain.at(2).units).sum(dim=1)[1 : len(served.items)].min() > 0.99
