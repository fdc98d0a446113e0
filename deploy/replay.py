"""Publishing a stream of events at a rate, in a thread, while counting what is published."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from headrace.deploy.tally import Tally
from headrace.features.user_row import entries_of
from headrace.schemas import Event, HistoryEntry, InvalidMessage, shopper_id
from headrace.streams.publisher import EventPublisher
from headrace.streams.replay_rate import Pace

RECENT_SHOPPERS = 64
RECENT_STEPS = 10
FLUSH_S = 60.0


class Replay:
    """Publishes `events`, `rate` a second where given, until they end, `seconds` have passed or `stop` is called."""

    def __init__(self, bootstrap: str, events: Iterable[Event], source: str, rate: float | None, seconds: float | None) -> None:
        self.tally = Tally()
        self.published = 0
        self.refused = 0
        self.failure: BaseException | None = None
        self._events = events
        self._rate = rate
        self._seconds = seconds
        self._publisher = EventPublisher(bootstrap, source=source)
        self._recent: OrderedDict[str, list[HistoryEntry]] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    @property
    def acknowledged(self) -> int:
        """Events that the broker has acknowledged."""
        return self._publisher.acknowledged

    @property
    def running(self) -> bool:
        """Whether events are still being published."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """Stop publishing and wait until all is acknowledged. Raises what has ended the replay before its time."""
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def recent(self) -> list[tuple[str, Sequence[HistoryEntry]]]:
        """Return the shoppers who were here last, with their last steps."""
        with self._lock:
            return [(shopper, list(steps)) for shopper, steps in self._recent.items()]

    def _run(self) -> None:
        try:
            self._publish()
        except BaseException as error:
            # Raised again by `stop`, in the thread that can tell the user.
            self.failure = error

    def _publish(self) -> None:
        pace = Pace(self._rate) if self._rate is not None else None
        deadline = time.monotonic() + self._seconds if self._seconds else None
        try:
            for event in self._events:
                if self._stop.is_set() or (deadline is not None and time.monotonic() >= deadline):
                    break
                if pace is not None:
                    pace.wait()
                try:
                    self._publisher.publish(event)
                except InvalidMessage:
                    self.refused += 1
                    continue
                self.published += 1
                self.tally.add(event)
                self._remember(event)
        finally:
            self._publisher.close(FLUSH_S)

    def _remember(self, event: Event) -> None:
        shopper = shopper_id(event)
        with self._lock:
            steps = self._recent.setdefault(shopper, [])
            steps += entries_of(event)
            del steps[:-RECENT_STEPS]
            self._recent.move_to_end(shopper)
            if len(self._recent) > RECENT_SHOPPERS:
                self._recent.popitem(last=False)
