"""`headrace demo`: everything at once on this machine, fed with a shop's events, watched, and checked at the end."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.deploy.asker import Asker
from headrace.deploy.demo_report import DemoReport, Freshness
from headrace.deploy.local import Infrastructure, start_infrastructure
from headrace.deploy.monitor import Monitor, Picture
from headrace.deploy.parts import DEMO_PARTS
from headrace.deploy.processes import free_port
from headrace.deploy.replay import Replay
from headrace.deploy.settings import Settings
from headrace.deploy.supervisor import Supervisor
from headrace.deploy.tally import Tally, difference
from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import Event, HistoryEntry
from headrace.schemas.topics import RECOMMENDATIONS
from headrace.streams.kafka import ensure_topics
from headrace.streams.readers import count_events, open_events
from headrace.streams.simulator import simulate

READY_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 120.0
LOOK_EVERY_S = 1.5
ASK_EVERY_S = 0.2
SEED = 1


@dataclass(frozen=True)
class DemoOptions:
    """What to show: `data` is a file, or None for the simulator. `kills` are (part, seconds) at which to kill it. Rates are events/s."""

    data: Path | None = None
    rate: float | None = None
    seconds: float | None = None
    keep: bool = False
    kafka: str | None = None
    redis: str | None = None
    kills: Sequence[tuple[str, float]] = ()

    @property
    def is_fresh(self) -> bool:
        """Whether the demo begins with an empty broker and an empty store."""
        return not (self.keep or self.kafka or self.redis)

    @property
    def used_rate(self) -> float:
        """The rate asked for, or 500 for the simulator and 1000 for a file."""
        return self.rate or (1000.0 if self.data else 500.0)

    @property
    def used_seconds(self) -> float | None:
        """The time asked for, or 60 s for the simulator and the whole of a file."""
        return self.seconds or (None if self.data else 60.0)


@dataclass
class Watcher:
    """Where a demo tells what happens: `say` takes lines, `show` the picture of a moment with the newest list's shopper's steps."""

    say: Callable[[str], None]
    show: Callable[[Picture, Sequence[HistoryEntry]], None] = field(default=lambda picture, history: None)


class Demo:
    """Infrastructure, parts and replay as one thing that is started, watched, stopped and reported on. Use it with `with`.

    `running` are the settings that its parts have got.
    """

    def __init__(self, options: DemoOptions, settings: Settings, watcher: Watcher) -> None:
        self.options = options
        self.watcher = watcher
        self._begun_s = time.monotonic()
        self._ready_s = 0.0
        self._first_list_s: float | None = None
        self.total = expected_events(options)
        self._settings = settings
        self._kills = sorted(options.kills, key=lambda kill: kill[1])

    def __enter__(self) -> Self:
        self._infrastructure: Infrastructure = start_infrastructure(
            self._settings.home, kafka=self.options.kafka, redis_url=self.options.redis, wipe=not self.options.keep, say=self.watcher.say
        )
        try:
            self._start()
        except BaseException:
            self.supervisor.stop()
            self._infrastructure.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.asker.stop()
            self.supervisor.stop()
            self.monitor.close()
        finally:
            self._infrastructure.stop()

    @property
    def url(self) -> str:
        """The address of the gateway, at which the dashboard is."""
        return f"http://127.0.0.1:{self.running.gateway_port}/"

    def run(self) -> DemoReport:
        """Wait until all parts are ready, replay, let the parts come to the end of it, and report. Ctrl-C ends the replay early."""
        self._wait_until_ready()
        before, version = self._state_before()
        self.watcher.say(f"all parts are ready after {self._ready_s:.1f} s; publishing")
        self.monitor.start_clock()
        self.replay.start()
        self.asker.start()
        try:
            while self.replay.running:
                self._tick()
        except KeyboardInterrupt:
            self.watcher.say("stopping; what is published is still counted")
        self.replay.stop()
        seconds = time.monotonic() - self.monitor.started_s
        self.asker.stop()
        self._drain()
        return self._report(before, version, seconds)

    def _start(self) -> None:
        given = self._infrastructure
        settings = self.running = replace(self._settings, kafka=given.bootstrap, redis=given.redis_url, gateway_port=free_port())
        self.supervisor = Supervisor(settings, DEMO_PARTS, self.watcher.say)
        ensure_topics(given.bootstrap)
        self.supervisor.start()
        self.store = OnlineStore(connect(given.redis_url))
        self.monitor = Monitor(given.bootstrap, self.supervisor)
        source = self.options.data.name if self.options.data else "simulator"
        self.replay = Replay(given.bootstrap, events_of(self.options), source, self.options.used_rate, self.options.used_seconds)
        self.asker = Asker(settings.gateway_port, lambda: [steps for _, steps in self.replay.recent()], every_s=ASK_EVERY_S)
        self.watcher.say(f"{given.broker}, {given.redis}; the dashboard is at {self.url}, the gateway's routes at {self.url}docs")

    def _wait_until_ready(self) -> None:
        told: set[str] = set()

        def tick(ready: Mapping[str, bool]) -> None:
            for name, well in ready.items():
                if well and name not in told:
                    told.add(name)
                    self.watcher.say(f"{name} is ready after {time.monotonic() - self._begun_s:.1f} s")

        self.supervisor.wait_until_ready(READY_TIMEOUT_S, tick)
        self._ready_s = time.monotonic() - self._begun_s

    def _state_before(self) -> tuple[Tally, int]:
        """Return what the online store counts already and the newest model version, both nothing on a fresh start."""
        if self.options.is_fresh:
            return Tally(), 0
        self.watcher.say("this is no fresh start: what is there already is taken in and counted first")
        self._drain()
        before = Tally()
        before.add_rows(self.store.scan_users(), self.store.scan_items())
        return before, int(self.monitor.readings.gauge("headrace_model_version", "learner") or 0)

    def _tick(self) -> None:
        due = time.monotonic() + LOOK_EVERY_S
        self._note_first_list()
        picture = self.monitor.look(self.replay.acknowledged)
        picture.total = self.total
        steps = dict(self.replay.recent()).get(picture.newest.shopper_id, ()) if picture.newest else ()
        self.watcher.show(picture, steps)
        while time.monotonic() < due:
            self.supervisor.tend()
            self._kill_on_time()
            self._note_first_list()
            time.sleep(0.05)

    def _note_first_list(self) -> None:
        if self._first_list_s is None and self.monitor.since_start(RECOMMENDATIONS):
            self._first_list_s = time.monotonic() - self._begun_s

    def _kill_on_time(self) -> None:
        seconds = time.monotonic() - self.monitor.started_s
        while self._kills and self._kills[0][1] <= seconds:
            part, _ = self._kills.pop(0)
            self.watcher.say(f"killing {part}, on purpose")
            self.supervisor.kill(part)

    def _drain(self) -> None:
        """Let the parts take in what is left."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while any(self.monitor.lags().values()):
            if time.monotonic() > deadline:
                self.watcher.say(f"still behind after {DRAIN_TIMEOUT_S:.0f} s: {self.monitor.picture.lag}")
                break
            self._tick()
        self._tick()

    def _report(self, before: Tally, version: int, seconds: float) -> DemoReport:
        # These bring torch, which would hold up the start by seconds.
        from headrace.deploy.answer_check import check_answers
        from headrace.streams.live_scorer import choose_device

        self.watcher.say("counting the rows, and making a sample of answers again")
        after = Tally()
        after.add_rows(self.store.scan_users(), self.store.scan_items())
        published = self.replay.tally
        found = difference(published, before, after)
        answers = check_answers(self._infrastructure.bootstrap, self.asker.answers)
        picture, total = self.monitor.picture, self.monitor.readings.total
        return DemoReport(
            broker=self._infrastructure.broker,
            redis=self._infrastructure.redis,
            device=choose_device(self._settings.device),
            data=str(self.options.data.name) if self.options.data else "simulator",
            fresh_start=self.options.is_fresh,
            seconds=round(seconds, 1),
            seconds_to_ready=round(self._ready_s, 1),
            seconds_to_first_recommendation=None if self._first_list_s is None else round(self._first_list_s, 1),
            events_in_file=count_events(self.options.data) if self.options.data else None,
            events_published=self.replay.acknowledged,
            events_refused=self.replay.refused,
            events_counted=after.events() - before.events(),
            events_lost=found.lost,
            events_double=found.double,
            purchases_published=published.events("purchase"),
            purchases_counted=after.events("purchase") - before.events("purchase"),
            item_touches_lost=found.item_touches_lost,
            item_touches_double=found.item_touches_double,
            dead_letters=picture.dead_letters,
            events_per_s=round(self.replay.acknowledged / max(seconds, 1e-6), 1),
            lag_max=picture.lag_max,
            lag_end=picture.lag,
            recommendations=picture.recommendations,
            model_versions=picture.model_version - version,
            swaps=picture.swaps,
            weight_updates_refused=int(total("headrace_weight_updates_refused_total")),
            responses_checked=answers.checked,
            torn_responses=answers.torn,
            failed_responses=self.asker.failed,
            drift_alerts=picture.drift_alerts,
            restarts=picture.restarts,
            freshness_ms={kind: Freshness(values["p50"], values["p99"]) for kind, values in picture.freshness_ms.items()},
            hit_rate_at_20=_rounded(picture.hits.live),
            popularity_hit_rate_at_20=_rounded(picture.hits.popularity),
            hit_rate_events=picture.hits.tested,
        )


def events_of(options: DemoOptions) -> Iterable[Event]:
    """Return the events that a demo publishes; those of the simulator change their taste half-way.

    Where there may be data of an earlier demo, the simulator's are others each time: the same ones would count as sent twice.
    """
    if options.data is not None:
        return open_events(options.data, seed=SEED)
    seed = SEED if options.is_fresh else time.time_ns()
    return simulate(seed, drift_at=int(options.used_rate * (options.used_seconds or 0) / 2) or None)


def expected_events(options: DemoOptions) -> int | None:
    """Return how many events a demo will publish, as far as that is known."""
    in_time = None if options.used_seconds is None else int(options.used_rate * options.used_seconds)
    in_file = count_events(options.data) if options.data else None
    known = [count for count in (in_time, in_file) if count is not None]
    return min(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
