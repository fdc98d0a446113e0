"""How small a delta is beside its snapshot, and how long it takes to apply: 1,000 touched rows of a table of 1,000,000 x 64."""

import hashlib
import time
from statistics import mean, median

import torch

from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, delta_payload, dense_names, snapshot_payload

ITEMS = 1_000_000
TOUCHED = 1000
TOUCHED_CATEGORIES = 100
DELTAS = 50
MOVED = 0.02


def measure_delta(items: int = ITEMS, touched: int = TOUCHED, deltas: int = DELTAS) -> dict[str, float]:
    """Return `delta_share`, a delta's bytes by its snapshot's, and `delta_apply_ms`, the mean time of `ModelCopy.apply` on the CPU.

    The time holds every check of hashes, shapes and numbers; the copies do what a learner and a scorer do with theirs. Beside it stand
    its median and the mean processor time (`delta_apply_p50_ms`, `delta_apply_cpu_ms`), which tell whether the machine was busy.
    """
    torch.manual_seed(1)
    author, live, follower = ModelCopy(), ModelCopy(), ModelCopy()
    for copy in (author, live):
        copy.add_items([f"item-{number}" for number in range(items)])
    live.copy_from(author)
    whole = snapshot_payload(live)
    name = chained_sha256(NO_WEIGHTS, hashlib.sha256(whole).hexdigest())
    live.version, live.sha256 = 1, name
    follower.apply(manifest_of(whole, "snapshot", (0, NO_WEIGHTS), 1, name), whole)
    sizes, seconds, busy_s = [], [], []
    for version in range(2, 2 + deltas):
        rows = torch.randperm(items)[:touched].sort().values + 1
        _move(author, rows)
        payload = delta_payload(author, rows, [], base=live)
        base = (live.version, live.sha256)
        name = chained_sha256(base[1], hashlib.sha256(payload).hexdigest())
        update = manifest_of(payload, "delta", base, version, name)
        live.take_own(payload, [], version, name)
        started_s, began_s = time.perf_counter(), time.thread_time()
        follower.apply(update, payload)
        seconds.append(time.perf_counter() - started_s)
        busy_s.append(time.thread_time() - began_s)
        sizes.append(len(payload))
    if not torch.equal(follower.model.items.weight[: items + 1], live.model.items.weight[: items + 1]):
        raise RuntimeError("the follower's item table is not the author's; the figures say nothing")
    return {
        "delta_share": mean(sizes) / len(whole),
        "delta_apply_ms": 1000 * mean(seconds),
        "delta_apply_p50_ms": 1000 * median(seconds),
        "delta_apply_cpu_ms": 1000 * mean(busy_s),
    }


@torch.no_grad()
def _move(author: ModelCopy, rows: torch.Tensor) -> None:
    parameters = author.parameters
    for dense in dense_names(author.model):
        if dense != "categories.weight":
            parameters[dense].add_(MOVED * torch.randn_like(parameters[dense]))
    categories = torch.randperm(len(parameters["categories.weight"]))[:TOUCHED_CATEGORIES].sort().values
    parameters["categories.weight"][categories] += MOVED
    table = parameters["items.weight"]
    author.put_rows(rows, table[rows] + MOVED * torch.randn(len(rows), table.shape[1]))
