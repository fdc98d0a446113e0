"""What is shown now, section by section, and the clients that wait for news of it.

A client never has a queue: it asks for what has changed since the revision that it saw last, so whoever is slow skips what has been
overtaken meanwhile.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

MOST_CLIENTS = 50
HEARTBEAT_S = 3.0
HEARTBEAT = b"event: heartbeat\ndata: {}\n\n"
# How soon the browser's own reconnect may come; the page waits longer by itself.
PREFACE = b"retry: 2000\n\n"


class TooManyClients(RuntimeError):
    """As many clients as are served watch already."""


class Board:
    """Sections with the revision at which each changed. `put` and `publish` are for one thread, `frames` for the event loop."""

    def __init__(self, most_clients: int = MOST_CLIENTS) -> None:
        self.most_clients = most_clients
        self.closed = False
        self._lock = threading.Lock()
        self._sections: dict[str, tuple[int, bytes]] = {}
        self._revision = 0
        self._news: dict[str, bytes] = {}
        self._clients: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def clients(self) -> int:
        """How many clients watch."""
        return len(self._clients)

    def put(self, section: str, content: Any) -> None:
        """Set a section; it is seen with the next `publish`. What has not changed is not sent again."""
        encoded = msgspec.json.encode(content)
        shown = self._sections.get(section)
        if shown is None or shown[1] != encoded:
            self._news[section] = encoded

    def publish(self) -> None:
        """Show what was put since the last time, and wake the clients."""
        with self._lock:
            if self._news:
                self._revision += 1
                self._sections |= {name: (self._revision, encoded) for name, encoded in self._news.items()}
                self._news = {}
        self._wake()

    def frame(self, since: int) -> tuple[int, bytes]:
        """Return the newest revision, and as JSON the sections that changed after revision `since` (0 for all)."""
        with self._lock:
            changed = [b'"%s":%s' % (name.encode(), encoded) for name, (at, encoded) in self._sections.items() if at > since]
            return self._revision, b'{"revision":%d%s}' % (self._revision, b"".join(b"," + part for part in changed))

    def close(self) -> None:
        """Let every client's stream end."""
        self.closed = True
        self._wake()

    def reserve(self) -> AbstractContextManager[asyncio.Event]:
        """Return a place for one more client, to be used with `with`. Raises TooManyClients."""
        if len(self._clients) >= self.most_clients:
            raise TooManyClients(f"{self.most_clients} clients watch already, more are not served; close a page, or try again later")
        return self._watching()

    async def frames(self, changed: asyncio.Event) -> AsyncIterator[bytes]:
        """Yield server-sent events until the board is closed: a frame whenever there is news, else a heartbeat."""
        yield PREFACE
        since = 0
        while not self.closed:
            changed.clear()
            revision, frame = self.frame(since)
            if revision > since:
                since = revision
                yield b"id: %d\ndata: %s\n\n" % (revision, frame)
                continue
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield HEARTBEAT

    @contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._clients[changed] = asyncio.get_running_loop()
        try:
            yield changed
        finally:
            del self._clients[changed]

    def _wake(self) -> None:
        for changed, loop in list(self._clients.items()):
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                # The loop has ended, and its clients with it.
                continue
