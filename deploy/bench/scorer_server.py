"""One scorer behind HTTP: the same small Starlette application for each peer, and the same way of answering together who waits together.

Usage: python -m headrace.deploy.bench.scorer_server PEER ITEMS ONNX_FILE PORT. It answers POST /score, of a JSON list of steps as
HistoryEntry has them, with the ids and logits of the best items; and GET /ready once it is.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.deploy.bench.scorer_peers import Answerer, Answers, drawn_histories, drawn_model, made
from headrace.schemas import HistoryEntry
from headrace.streams.gateway import SWITCH_INTERVAL_S

MOST_TOGETHER = 64

History = list[HistoryEntry]


class Together:
    """Scores in one thread; requests that come while it is busy are scored as one batch next."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._waiting: asyncio.Queue[tuple[History, asyncio.Future[tuple[list[str], list[float]]]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, history: History) -> tuple[list[str], list[float]]:
        """Return what is best for one history."""
        answer: asyncio.Future[tuple[list[str], list[float]]] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((history, answer))
        return await answer

    async def run(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MOST_TOGETHER and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            answers: Answers = await loop.run_in_executor(self._thread, self._answerer.answer, [history for history, _ in batch])
            for (_, answer), told in zip(batch, answers, strict=True):
                if not answer.done():
                    answer.set_result(told)


def create_app(answerer: Answerer) -> Starlette:
    """Return the application around one scorer."""
    together = Together(answerer)
    decoder = msgspec.json.Decoder(History)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(together.run())
        yield
        task.cancel()

    async def ready(request: Request) -> Response:
        return Response(b"{}", media_type="application/json")

    async def score(request: Request) -> Response:
        answer = await together.ask(decoder.decode(await request.body()))
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return Starlette(routes=[Route("/ready", ready), Route("/score", score, methods=["POST"])], lifespan=lifespan)


def main(peer: str, items: str, onnx_file: str, port: str) -> None:
    """Serve on the loopback until ended."""
    import torch

    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    answerer = made(peer, drawn_model(int(items)), Path(onnx_file))
    for count in (1, 16):
        answerer.answer(drawn_histories(int(items), count, seed=count))
    uvicorn.run(create_app(answerer), host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
