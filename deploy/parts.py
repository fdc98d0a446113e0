"""The parts of Headrace and how each runs as a process of its own (`headrace run PART`)."""

import threading
from collections.abc import Callable

from headrace.deploy.settings import Settings
from headrace.streams.lifetime import collect_garbage_seldom, log_as_json, stop_on_signals


def run_part(name: str, settings: Settings) -> None:
    """Run one part until SIGTERM or SIGINT. Raises what ends it otherwise."""
    log_as_json(name, settings.log_level)
    PARTS[name](settings)


def _feature_worker(settings: Settings) -> None:
    from headrace.features.online_store import OnlineStore, connect
    from headrace.streams.feature_worker import COMPONENT, FeatureWorker

    ready = _metrics(COMPONENT, settings)
    worker = FeatureWorker(settings.kafka, OnlineStore(connect(settings.redis)), settings.instance)
    # The rows at hand are many and form no cycles: walking through them costs a third of the worker's time.
    collect_garbage_seldom()
    worker.run(stop_on_signals(), ready)


def _learner(settings: Settings) -> None:
    from headrace.streams.learner import run
    from headrace.streams.trainer import COMPONENT

    run(settings.kafka, settings.redis, settings.home, _metrics(COMPONENT, settings), settings.log_level)


def _recommender(settings: Settings) -> None:
    from headrace.streams.recommender import COMPONENT, Recommender

    ready = _metrics(COMPONENT, settings)
    Recommender(settings.kafka, settings.device, settings.instance).run(stop_on_signals(), ready)


def _gateway(settings: Settings) -> None:
    from headrace.streams.gateway import run_gateway

    run_gateway(settings.kafka, settings.redis, settings.device, settings.gateway_host, settings.gateway_port)


def _archiver(settings: Settings) -> None:
    from headrace.streams.archiver import COMPONENT, Archiver

    ready = _metrics(COMPONENT, settings)
    Archiver(settings.kafka, settings.archive, settings.instance).run(stop_on_signals(), ready)


def _metrics(component: str, settings: Settings) -> threading.Event:
    from headrace.streams.metrics import MetricsServer

    return MetricsServer(component, settings.metrics_host, settings.metrics_port).ready


PARTS: dict[str, Callable[[Settings], None]] = {
    "feature-worker": _feature_worker,
    "learner": _learner,
    "recommender": _recommender,
    "gateway": _gateway,
    "archiver": _archiver,
}
# What `headrace demo` starts: the archive is for training, and nothing waits for it.
DEMO_PARTS = ("feature-worker", "learner", "recommender", "gateway")
