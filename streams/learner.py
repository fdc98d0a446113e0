"""The learner: a Faust app whose agents on `clicks` and `purchases` feed the training thread, and one on `release-outcomes` its watch.

Faust holds no truth here. The agents only hand events over; what has been learned is written in the weights themselves
(`trainer`). An event's offset is committed once it is learned, so after a crash it comes again: at least once, and harmless.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import faust
from mode import Service

from headrace.features.online_store import OnlineStore, connect
from headrace.features.place import Place
from headrace.features.user_row import entries_of
from headrace.schemas import Click, Event, InvalidMessage, Purchase, check_event, decode, shopper_id
from headrace.schemas.topics import CLICKS, PURCHASES, RELEASE_OUTCOMES
from headrace.schemas.wire import header, now_ms
from headrace.streams import metrics, tracing
from headrace.streams.drift_watch import Watching
from headrace.streams.gathered_records import GatheringTransport
from headrace.streams.live_scorer import use_one_thread
from headrace.streams.model_access import ModelAccess
from headrace.streams.outcome_reports import OutcomeReader
from headrace.streams.service_signals import ServiceSignals
from headrace.streams.trainer import COMPONENT, Trainer
from headrace.streams.training_buffer import Example, ExampleBuffer

log = logging.getLogger(__name__)


class Training(Service):
    """The training thread as a part of the Faust app: they start, stop and fail together."""

    def __init__(self, run: Callable[[threading.Event], None], **settings: Any) -> None:
        super().__init__(**settings)
        self._run = run
        self._stop = threading.Event()

    @Service.task
    async def _train(self) -> None:
        # An error in the thread is raised here; it crashes the app, and the supervisor starts it anew.
        await asyncio.to_thread(self._run, self._stop)

    async def on_stop(self) -> None:
        """Let the round in hand come to its end."""
        self._stop.set()


def create_app(
    bootstrap: str,
    redis_url: str,
    home: Path,
    ready: threading.Event,
    access: ModelAccess | None = None,
    watching: Watching | None = None,
) -> faust.App:
    """Return the learner's Faust app; `ready` is set once weights are published, signed by the key that `access` names."""
    use_one_thread()
    folder = (home / "faust").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        f"headrace-{COMPONENT}",
        broker=";".join(f"kafka://{address.strip()}" for address in bootstrap.split(",")),
        datadir=folder,
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        # Faust's own time-outs leave the partitions of a killed worker unserved for minutes.
        broker_session_timeout=10,
        broker_heartbeat_interval=1,
        broker_commit_interval=1.0,
    )
    # The agents below never wait.
    app.transport = GatheringTransport(app.conf.broker_consumer, app)
    buffer = ExampleBuffer(lambda examples: _release(app, examples))
    trainer = Trainer(bootstrap, OnlineStore(connect(redis_url)), buffer, access=access, watching=watching)

    @app.service
    class _Training(Training):
        def __init__(self, **settings: Any) -> None:
            super().__init__(lambda stop: _train(bootstrap, trainer, buffer, stop, ready), **settings)

    def collect(kind: type[Click] | type[Purchase]) -> Callable[[Any], Any]:
        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                example = example_of(kind, event)
                if example is None:
                    event.ack()
                else:
                    buffer.add(example)

        agent.__name__ = f"learn_from_{kind.__name__.lower()}s"
        return agent

    async def tell_lag() -> None:
        _tell_lag(app, buffer)

    app.timer(interval=1.0)(tell_lag)

    for topic, kind in ((CLICKS, Click), (PURCHASES, Purchase)):
        source = app.topic(topic.name, key_serializer="raw", value_serializer="raw", internal=False)
        app.agent(source)(collect(kind))
    app.agent(app.topic(RELEASE_OUTCOMES.name, key_serializer="raw", value_serializer="raw", internal=False))(
        _outcomes_agent(trainer, OutcomeReader(access.trusted if access is not None else None))
    )
    return app


def example_of(kind: type[Click] | type[Purchase], received: Any) -> Example | None:
    """Return what a Faust event says to the learner; None where it is no valid event, of which the feature worker tells."""
    message = received.message
    try:
        event: Event = decode(kind, received.value, _headers(message.headers))
        check_event(event, now_ms())
    except InvalidMessage:
        metrics.UNREADABLE.labels(COMPONENT).inc()
        return None
    place = Place(f"{message.topic}/{message.partition}", message.offset, max(0, int(1000 * message.timestamp)))
    trace = header(_headers(message.headers), "traceparent") if tracing.is_on() else None
    return Example(
        shopper_id(event),
        tuple(entries_of(event)),
        event.event_time_ms,
        place.published_ms,
        place.source,
        place.offset,
        received,
        trace if tracing.is_followed(trace) else None,
        event.attribution.surface if event.attribution is not None else None,
    )


def run(
    bootstrap: str,
    redis_url: str,
    home: Path,
    ready: threading.Event,
    log_level: str,
    access: ModelAccess | None = None,
    watching: Watching | None = None,
) -> None:
    """Run the learner until SIGTERM or SIGINT, then exit the process."""
    for framework in ("faust", "mode", "aiokafka"):
        logging.getLogger(framework).setLevel(logging.WARNING)
    app = create_app(bootstrap, redis_url, home, ready, access, watching)
    worker = faust.Worker(app, loglevel=log_level, redirect_stdouts=False, override_logging=False, quiet=True)
    worker.execute_from_commandline()


def _train(bootstrap: str, trainer: Trainer, buffer: ExampleBuffer, stop: threading.Event, ready: threading.Event) -> None:
    """Train, and look at the services beside it."""
    services = ServiceSignals(bootstrap, COMPONENT, buffer.oldest_ms, trainer.drift.hand_over, now_ms)
    services.start()
    try:
        trainer.run(stop, ready)
    finally:
        services.stop()


def _outcomes_agent(trainer: Trainer, reader: OutcomeReader) -> Callable[[Any], Any]:
    async def watch_outcomes(stream: Any) -> None:
        async for event in stream.events():
            outcomes = reader.read(event.value, _headers(event.message.headers), event.message.offset)
            if outcomes is not None:
                trainer.drift.heard(outcomes)

    return watch_outcomes


def _tell_lag(app: faust.App, buffer: ExampleBuffer) -> None:
    """Set the metrics of lag from what Faust's consumer knows already; the broker is not asked."""
    lag = {CLICKS.name: 0, PURCHASES.name: 0}
    committed = app.monitor.tp_committed_offsets
    for place in app.consumer.assignment():
        end = app.consumer.highwater(place)
        if place.topic in lag and end is not None and place in committed:
            lag[place.topic] += max(0, end - committed[place])
    for topic, records in lag.items():
        metrics.LEARNER_LAG.labels(topic).set(records)
    oldest_ms = buffer.oldest_ms()
    metrics.LEARNER_LAG_SECONDS.set(0.0 if oldest_ms is None else max(0, now_ms() - oldest_ms) / 1000)
    metrics.LEARNER_WAITING.set(buffer.waiting)


def _release(app: faust.App, examples: Sequence[Example]) -> None:
    """Acknowledge examples on the app's own loop, whose bookkeeping is not made for other threads."""

    def acknowledge() -> None:
        for example in examples:
            cast(Any, example.receipt).ack()

    loop = app.loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(acknowledge)


def _headers(headers: Any) -> list[tuple[str, str | bytes | None]]:
    return list(headers.items() if isinstance(headers, dict) else headers or ())
