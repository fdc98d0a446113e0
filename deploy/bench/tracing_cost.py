"""What traces cost: CPU time per event of publishing and of folding, without traces and with growing shares of followed events.

    python -m headrace.deploy.bench.tracing_cost --json cost.json

Starts a Kafka and a Redis of its own, and a collector that throws away what it is sent. Ways are taken in turn, `--repeats` times;
medians are told. CPU time is that of the whole process: the client library's threads and the exporter's are in it.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import REGISTRY

from headrace.deploy.bench.ground import Ground, prepared_ground
from headrace.features.online_store import OnlineStore, connect
from headrace.streams import tracing
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.publisher import EventPublisher
from headrace.streams.simulator import simulate

# The share of followed events; None where nothing is set up.
WAYS: dict[str, float | None] = {"off": None, "on_0": 0.0, "on_0.01": 0.01, "on_0.1": 0.1, "on_1": 1.0}


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, help="events of each repeat and way")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, of which medians are told")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    chosen = parser.parse_args()
    figures = measure(chosen.events, chosen.repeats, lambda told: print(told, file=sys.stderr, flush=True))
    for way, cost in figures.items():
        print(f"{way:8} publish {cost['publish_us']:6.2f} us/event   fold {cost['fold_us']:6.2f} us/event")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(events: int, repeats: int, tell: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Return CPU microseconds per event, of publishing and of folding, by way: medians over the repeats."""
    raw: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as home, collector() as endpoint, prepared_ground(Path(home), None, None, tell) as ground:
        for repeat in range(-1, repeats):
            for way, share in WAYS.items():
                tell(f"repeat {repeat + 1} of {repeats}, {way}")
                ground.empty()
                if share is not None:
                    tracing.set_up("bench", share=share, variables={tracing.ENDPOINT: endpoint})
                cost = _publish(ground, events), _fold(ground, events)
                tracing.shut_down()
                # The first round warms caches and compiled code.
                if repeat >= 0:
                    raw[way].append(cost)
    return {
        way: {name: round(statistics.median(cost[place] for cost in costs), 3) for place, name in enumerate(("publish_us", "fold_us"))}
        for way, costs in raw.items()
    }


@contextmanager
def collector() -> Iterator[str]:
    """Run a collector in a process of its own, and give its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_collect, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _collect(told: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.send(server.server_address[1])
    server.serve_forever()


def _publish(ground: Ground, events: int) -> float:
    shop = list(simulate(1, events=events))
    with EventPublisher(ground.bootstrap, "bench") as publisher:
        started_s = time.process_time()
        for event in shop:
            publisher.publish(event)
        publisher.flush()
        return 1e6 * (time.process_time() - started_s) / events


def _fold(ground: Ground, events: int) -> float:
    worker = FeatureWorker(ground.bootstrap, OnlineStore(connect(ground.redis_url)))
    begun = _folded()
    while _folded() == begun:
        worker.step(1.0)
    # From the first batch on: joining the group is not what is measured.
    first, started_s = _folded(), time.process_time()
    while _folded() < begun + events:
        worker.step(0.2)
    worker.commit()
    spent_s = time.process_time() - started_s
    worker.close()
    return 1e6 * spent_s / max(1.0, begun + events - first)


def _folded() -> float:
    return REGISTRY.get_sample_value("headrace_feature_events_total") or 0.0


if __name__ == "__main__":
    main()
