"""A gateway for the page's tests, which can be stopped and started again at the same port."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI
from msgspec import Struct

from headrace.schemas import encode
from headrace.schemas.topics import Topic
from headrace.streams import kafka as kafka_client

TOKEN = "let-me-roll-back"


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s: {what}"
        time.sleep(0.05)


@dataclass
class Gateway:
    """A gateway that can be stopped and started again at the same port."""

    bootstrap: str
    app: FastAPI
    port: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread = field(default_factory=threading.Thread)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(self.app, http="httptools", log_config=None, access_log=False, timeout_graceful_shutdown=5)
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        until(lambda: server.started or not self._thread.is_alive(), "the gateway has started", 60.0)
        assert server.started

    def stop(self) -> None:
        self.app.state.dashboard.board.close()
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(30.0)
        assert not self._thread.is_alive()

    def publish(self, topic: Topic, message: Struct, key: str = "key") -> None:
        producer = kafka_client.producer(self.bootstrap, "test")
        producer.produce(topic.name, encode(message), key)
        assert producer.flush(10.0) == 0
