"""`headrace models` as an operator runs it, on a real Kafka."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, delta_payload, snapshot_payload
from headrace.schemas import ModelUpdate
from headrace.streams.release_log import ReleaseLog
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.weight_store import WeightStore
from headrace.streams.weights_channel import WeightsPublisher

COMMAND = [sys.executable, "-m", "headrace.deploy.cli", "models"]
Models = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    SigningKey.create(tmp_path / "keys")
    return tmp_path


@pytest.fixture
def models(fresh_topics: str, home: Path) -> Models:
    """Runs the command against a topic with versions 1 and 3 whole, and 2 and 4 as deltas, all signed."""
    publisher = WeightsPublisher(fresh_topics, "test", signing=SigningKey.load(home / "keys" / "signing.pem"))
    copy = ModelCopy()
    copy.add_items(["lamp", "bulb"])
    whole = snapshot_payload(copy)
    copy.version, copy.sha256 = 1, chained_sha256(NO_WEIGHTS, hashlib.sha256(whole).hexdigest())
    publisher.publish(manifest("snapshot", whole, copy, 1, copy.sha256), whole)
    for version in (2, 3, 4):
        before = ModelCopy()
        before.copy_from(copy)
        copy.put_rows(copy.model.items.weight.new_tensor([1]).long(), copy.model.items.weight[1:2] + version)
        payload = delta_payload(copy, copy.model.items.weight.new_tensor([1]).long(), (), base=before)
        name = chained_sha256(before.sha256, hashlib.sha256(payload).hexdigest())
        publisher.publish(manifest("delta", payload, before, version, name), payload)
        copy.copy_from(before)
        copy.take_own(payload, (), version, name)
        if version == 3:
            whole = snapshot_payload(copy)
            publisher.publish(manifest("snapshot", whole, copy, 3, name), whole)
    environment = os.environ | {"HEADRACE_HOME": str(home), "HEADRACE_KAFKA": fresh_topics}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False)

    return run


def manifest(kind: str, payload: bytes, base: ModelCopy, version: int, name: str) -> ModelUpdate:
    told = {"created_ms": 1_790_000_000_000, "learned_events": 10, "holdout_loss": 2.5, "live_holdout_loss": 2.6}
    return manifest_of(payload, kind, (base.version, base.sha256), version, name, **told)


def test_an_operator_promotes_pins_and_rolls_back_and_each_word_is_signed(models: Models, fresh_topics: str, home: Path) -> None:
    assert "no decision yet: the newest version, 4, answers everyone" in models("list").stdout
    assert models("promote", "1").stdout.startswith("promote: version 1 is the stable one (decision 1)")
    refused = models("promote", "2")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("headrace: version 2 was not published whole")
    assert len(refused.stderr.splitlines()) == 1
    assert models("promote", "3", "--reason", "looks good", "--json", str(home / "p.json")).returncode == 0
    assert json.loads((home / "p.json").read_text())["reason"] == "looks good"
    assert models("pin").returncode == 0
    assert "pinned: all shoppers get it" in models("list").stdout
    assert models("unpin").returncode == 0
    back = models("rollback", "--to", "1", "--reason", "worse from 3 on")
    assert back.stdout == "rollback: version 1 is the stable one (decision 5); versions up to 4 are withdrawn\n", back.stderr
    listed = models("list", "--count", "2", "--json", str(home / "l.json"))
    assert "worse from 3 on" in listed.stdout
    found = json.loads((home / "l.json").read_text())
    assert [(one["version"], one["standing"]) for one in found["versions"]] == [
        (4, "withdrawn"), (3, "withdrawn"), (2, "withdrawn"), (1, "stable"),
    ]  # fmt: skip
    # Whoever trusts the key alone sees the same five decisions.
    log = ReleaseLog(fresh_topics, "test", TrustedKeys(home / "keys" / "trusted"))
    assert [release.action for release in log.counted] == ["promote", "promote", "pin", "unpin", "rollback"]


def test_a_version_and_a_quarantined_candidate_are_shown(models: Models, home: Path) -> None:
    shown = json.loads(models("show", "3").stdout)
    assert (shown["version"], shown["whole"], shown["holdout_loss"]) == (3, True, 2.5)
    missing = models("show", "99")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "no version or quarantined candidate '99'" in missing.stderr
    name = "0000000005-1790000000000"
    record = {
        "version": 5, "base_version": 4, "base_sha256": "a" * 64, "refused_ms": 1_790_000_000_000, "trigger": "count", "check": "finite",
        "reason": "not finite", "metrics": {}, "items": [], "candidate_loss": None, "live_loss": None, "events": 1, "first_offsets": {},
        "last_offsets": {}, "batch_uri": f"quarantine/{name}.jsonl", "payload_bytes": 1, "payload_sha256": "b" * 64, "payload_uri": None,
    }  # fmt: skip
    WeightStore(home / "weights").put_file(f"quarantine/{name}.json", json.dumps(record).encode())
    assert f"quarantined {name}: finite: not finite" in models("list").stdout
    assert json.loads(models("show", name).stdout)["reason"] == "not finite"


def test_without_a_key_nothing_is_decided(models: Models, home: Path) -> None:
    (home / "keys" / "signing.pem").unlink()
    refused = models("promote", "1")
    assert refused.returncode == 1
    assert "create one with: headrace keys create" in refused.stderr
