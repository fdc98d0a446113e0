"""A process that asks the gateway for predictions at an even rate, and writes how long each answer took.

It is open-loop: a question has a time at which it is due, and its latency counts from then, so that a gateway that stands still
is charged for every question that waits meanwhile. Run as `python -m headrace.deploy.bench.asking FILE`, with an `Errand` as JSON
in the file; lines of `Asked` go to the errand's own file, and when all is over, one JSON object with their number to standard output.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct


class Errand(Struct, frozen=True):
    """What to ask: bodies in turn, `rate` questions a second over `connections`, for `seconds`. One answer in `kept` is kept whole."""

    port: int
    bodies: list[str]
    rate: float
    seconds: float
    connections: int
    kept: int
    file: str


class Asked(Struct, frozen=True, array_like=True):
    """One question: when it was due and when its answer was there (nanoseconds since 1970), which body, whose weights answered.

    `failed` says why there is no answer. `probabilities` of the Transformer's best items are there where the answer is kept.
    """

    due_ns: int
    done_ns: int
    body: int
    version: int = 0
    sha256: str = ""
    failed: str = ""
    probabilities: dict[str, float] = {}


def ask_at_rate(errand: Errand) -> list[Asked]:
    """Ask as the errand says and return all questions in the order of their times."""
    began_ns = time.time_ns() + 50_000_000
    threads = [_Connection(errand, number, began_ns) for number in range(errand.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted((asked for thread in threads for asked in thread.asked), key=lambda asked: asked.due_ns)


class _Connection(threading.Thread):
    def __init__(self, errand: Errand, number: int, began_ns: int) -> None:
        super().__init__(name=f"asking-{number}")
        self.asked: list[Asked] = []
        self._errand = errand
        self._number = number
        self._began_ns = began_ns

    def run(self) -> None:
        errand = self._errand
        connection = http.client.HTTPConnection("127.0.0.1", errand.port, timeout=5.0)
        every_ns = int(1e9 / errand.rate)
        for turn in range(self._number, int(errand.rate * errand.seconds), errand.connections):
            due_ns = self._began_ns + turn * every_ns
            time.sleep(max(0.0, (due_ns - time.time_ns()) / 1e9))
            body = turn % len(errand.bodies)
            try:
                connection.request("POST", "/v1/predict", errand.bodies[body], {"Content-Type": "application/json"})
                response = connection.getresponse()
                raw = response.read()
                done_ns = time.time_ns()
                if response.status != 200:
                    raise ValueError(f"status {response.status}: {raw[:100]!r}")
                told = json.loads(raw)
                kept = {entry["item_id"]: entry["probability"] for entry in told["transformer"]} if turn % errand.kept == 0 else {}
                self.asked.append(Asked(due_ns, done_ns, body, told["model_version"], told["weights_sha256"], "", kept))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.asked.append(Asked(due_ns, time.time_ns(), body, failed=repr(error)))
                connection.close()


if __name__ == "__main__":
    wanted = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Errand)
    # The threads' turns must be shorter than what is measured.
    sys.setswitchinterval(0.0005)
    found = ask_at_rate(wanted)
    Path(wanted.file).write_bytes(b"\n".join(msgspec.json.encode(asked) for asked in found))
    print(json.dumps({"asked": len(found)}))
