"""Detectors side by side: ours, River's, and outside peers, on the same values and scored by the same rule."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from headrace.deploy.bench.drift_detectors import STREAMS, known_stream, shop_stream
from headrace.deploy.bench.drift_peers import PEERS, PeerFailed, Peers, Series, started_peers
from headrace.deploy.bench.drift_score import Score, merged
from headrace.deploy.bench.peer_environments import PeerNotInstalled
from headrace.deploy.bench.progress import Progress

_TABLES = {"known_streams_together": "River's five streams", "detectors_on_the_shop": "the shop"}


def compare_detectors(pool: Executor, seeds: Sequence[int], peers_home: Path | None, progress: Progress) -> dict[str, Any]:
    """Return the scores of all detectors by stream, River's streams together, and on the shop, over all seeds.

    `pool` runs ours and River's; the peers, whose environment is kept in `peers_home` (None: without them), judge what it has done
    meanwhile. Where they cannot, `peers_left_out` says why.
    """
    cases = [(name, seed) for name in (*STREAMS, None) for seed in seeds]
    waiting = pool.map(_stream, cases)
    tables: dict[str | None, list[dict[str, Score]]] = {name: [] for name in (*STREAMS, None)}
    with ExitStack() as stack:
        peers, left_out = _peers(stack, peers_home, progress)
        versions = peers.versions if peers is not None else None
        for (name, _), (scores, series) in zip(cases, waiting, strict=True):
            tables[name].append(scores)
            try:
                tables[name] += [peers.judge(each) for each in series] if peers is not None else []
            except PeerFailed as error:
                peers, left_out = None, str(error)
            progress.step()
    if left_out is not None:
        # Half of a peer's row would be held against whole ones.
        tables = {name: [table for table in each if not table.keys() & set(PEERS)] for name, each in tables.items()}
    return {
        "known_streams": {name: merged(tables[name]) for name in STREAMS},
        "known_streams_together": merged(table for name in STREAMS for table in tables[name]),
        "detectors_on_the_shop": merged(tables[None]),
        "peer_versions": versions,
        "peers_left_out": left_out,
    }


def rows(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that tell the scores to people, none where they were not measured."""
    for table, title in _TABLES.items():
        if table in found:
            yield f"{'on ' + title:32} {'false alarms/million':>22} {'missed':>12} {'median delay':>14}"
            for name, score in found[table].items():
                alarms, missed = score["false_alarms_per_million"], f"{score['missed']} of {score['planted']}"
                delay = "-" if score["median_delay"] is None else f"{score['median_delay']:,.0f}"
                yield f"  {name:30} {alarms:>22,.1f} {missed:>12} {delay:>14}"
    if found.get("peers_left_out"):
        yield f"without Evidently and alibi-detect: {found['peers_left_out']}"


def _peers(stack: ExitStack, home: Path | None, progress: Progress) -> tuple[Peers | None, str | None]:
    """Return the peers, or why they are left out."""
    if home is None:
        return None, "--no-peers was given"
    try:
        return stack.enter_context(started_peers(home, progress.tell)), None
    except (PeerNotInstalled, PeerFailed) as error:
        return None, str(error)


def _stream(case: tuple[str | None, int]) -> tuple[dict[str, Score], list[Series]]:
    """Return what is found on one of River's streams, or, of no name, on the shop."""
    name, seed = case
    return shop_stream(seed) if name is None else known_stream(name, seed)
