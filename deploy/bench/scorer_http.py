"""Requests a second of each scorer behind the same HTTP layer, asked over a fixed number of connections, in turns, several times."""

import asyncio
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import Struct

from headrace.deploy.bench.measured_process import Invalid, MeasuredProcess
from headrace.deploy.bench.scorer_peers import EAGER, PEERS, drawn_histories
from headrace.deploy.processes import free_port

START_TIMEOUT_S = 300.0
WARM_UP_S = 0.5
BODIES = 256


class HttpRow(Struct, frozen=True):
    """One peer behind HTTP: medians over the repeats; `ratio_to_eager` is that of the requests a second."""

    peer: str
    items: int
    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    ratio_to_eager: float
    repeats: list[float]


def measure_http(
    items: int, onnx_file: Path, logs: Path, connections: int, repeats: int, seconds: float, tell: Callable[[str], None]
) -> list[HttpRow]:
    """Start a server for each peer and ask them in turns. Raises Invalid where one ends or does not answer."""
    found: dict[str, list[list[float]]] = {peer: [] for peer in PEERS}
    bodies = [msgspec.json.encode(history) for history in drawn_histories(items, BODIES, seed=1)]
    with ExitStack() as stack:
        ports = {}
        for number, peer in enumerate(PEERS):
            ports[peer] = free_port()
            command = [sys.executable, "-W", "ignore", "-m", "headrace.deploy.bench.scorer_server"]
            process = MeasuredProcess(
                [*command, peer, str(items), str(onnx_file), str(ports[peer])],
                logs / f"scorer-{number}.log",
                {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            stack.callback(process.stop)
            tell(f"{items} items: starting {peer}")
            _wait_until_ready(process, ports[peer])
        for repeat in range(repeats):
            for peer in PEERS:
                tell(f"{items} items, repeat {repeat + 1}: {peer}")
                asyncio.run(_load(ports[peer], bodies, connections, WARM_UP_S))
                found[peer].append(asyncio.run(_load(ports[peer], bodies, connections, seconds)))
    rates = {peer: [len(took) / seconds for took in runs] for peer, runs in found.items()}
    eager = statistics.median(rates[EAGER])
    return [
        HttpRow(
            peer,
            items,
            connections,
            statistics.median(rates[peer]),
            statistics.median(_share(took, 0.5) for took in runs),
            statistics.median(_share(took, 0.99) for took in runs),
            statistics.median(rates[peer]) / eager,
            rates[peer],
        )
        for peer, runs in found.items()
    ]


async def _load(port: int, bodies: list[bytes], connections: int, seconds: float) -> list[float]:
    """Ask over so many connections, each again as soon as it has its answer; return the milliseconds of each answer in time."""
    took: list[float] = []
    ends_s = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while time.perf_counter() < ends_s:
            body = bodies[turn % len(bodies)]
            started_s = time.perf_counter()
            writer.write(b"POST /score HTTP/1.1\r\nHost: loopback\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise Invalid(f"a scorer answered {head[:60]!r}")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            done_s = time.perf_counter()
            if done_s <= ends_s:
                took.append(1000.0 * (done_s - started_s))
            turn += connections
        writer.close()

    await asyncio.gather(*(ask(number) for number in range(connections)))
    return took


def _wait_until_ready(process: MeasuredProcess, port: int) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        process.require_alive()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise Invalid(f"a scorer was not ready within {START_TIMEOUT_S:.0f} s")


def _share(took: list[float], share: float) -> float:
    if not took:
        raise Invalid("a scorer gave no answer in time; give it more --seconds")
    return sorted(took)[min(len(took) - 1, int(share * len(took)))]
