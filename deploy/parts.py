"""The parts of Headrace and how each runs as a process of its own (`headrace run PART`)."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.deploy.settings import Settings
from headrace.streams import tracing
from headrace.streams.lifetime import collect_garbage_seldom, log_as_json, stop_on_signals

if TYPE_CHECKING:
    from headrace.streams.drift_watch import Watching
    from headrace.streams.model_access import ModelAccess


def run_part(name: str, settings: Settings) -> None:
    """Run one part until SIGTERM or SIGINT. Raises what ends it otherwise."""
    log_as_json(name, settings.log_level, settings.instance)
    tracing.set_up(name, settings.instance, share=settings.trace_sample)
    try:
        PARTS[name](settings)
    finally:
        tracing.shut_down()


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

    ready = _metrics(COMPONENT, settings)
    run(settings.kafka, settings.redis, settings.home, ready, settings.log_level, _access(settings), _watching(settings))


def _watching(settings: Settings) -> "Watching":
    from headrace.online_model.watching.configuration import DEFAULT_FILE, load_configuration
    from headrace.streams.drift_watch import Watching

    return Watching(
        load_configuration(Path(settings.watches) if settings.watches else DEFAULT_FILE),
        settings.home / "drift" / "watching.json",
        settings.drift_only_tell,
        settings.retrain_command,
    )


def _recommender(settings: Settings) -> None:
    from headrace.streams.recommender import COMPONENT, Recommender
    from headrace.streams.signing import SigningKey

    ready = _metrics(COMPONENT, settings)
    access = _access(settings)
    signing = SigningKey.load(settings.signing_key)
    recommender = Recommender(
        settings.kafka, settings.device, settings.instance, trusted=access.trusted, store=access.store, signing=signing
    )
    recommender.run(stop_on_signals(), ready)


def _gateway(settings: Settings) -> None:
    from headrace.streams.gateway import run_gateway

    run_gateway(settings.kafka, settings.redis, settings.device, settings.gateway_host, settings.gateway_port, access=_access(settings))


def _release_manager(settings: Settings) -> None:
    from headrace.online_model.release_policy import ReleaseRules
    from headrace.streams.release_manager import COMPONENT, ReleaseManager
    from headrace.streams.signing import SigningKey, TrustedKeys

    ready = _metrics(COMPONENT, settings)
    key, trusted = SigningKey.load(settings.signing_key), TrustedKeys(settings.trusted_keys)
    ReleaseManager(settings.kafka, key, trusted, ReleaseRules(trial_share=settings.trial_share)).run(stop_on_signals(), ready)


def _archiver(settings: Settings) -> None:
    from headrace.streams.archiver import COMPONENT, Archiver

    ready = _metrics(COMPONENT, settings)
    Archiver(settings.kafka, settings.archive, settings.instance).run(stop_on_signals(), ready)


def _alert_bridge(settings: Settings) -> None:
    from headrace.streams.alert_bridge import COMPONENT, AlertBridge
    from headrace.streams.alert_targets import Alertmanager, SlackWebhook, Target

    targets: list[Target] = []
    if settings.alertmanager_url:
        targets.append(Alertmanager(settings.alertmanager_url))
    if settings.slack_webhook_file:
        targets.append(SlackWebhook(Path(settings.slack_webhook_file)))
    # Built first: without a target it ends at once, and says what to set.
    bridge = AlertBridge(settings.kafka, targets, settings.home / COMPONENT, settings.instance)
    bridge.run(stop_on_signals(), _metrics(COMPONENT, settings))


def _access(settings: Settings) -> "ModelAccess":
    from headrace.streams.model_access import ModelAccess
    from headrace.streams.signing import TrustedKeys
    from headrace.streams.weight_store import WeightStore

    trusted = TrustedKeys(settings.trusted_keys)
    token = Path(settings.admin_token_file) if settings.admin_token_file else None
    trusted_set = Path(settings.trusted_set) if settings.trusted_set else None
    return ModelAccess(trusted, WeightStore(settings.weight_store, trusted), settings.signing_key, token, trusted_set)


def _metrics(component: str, settings: Settings) -> threading.Event:
    from headrace.streams.metrics import MetricsServer

    return MetricsServer(component, settings.metrics_host, settings.metrics_port).ready


PARTS: dict[str, Callable[[Settings], None]] = {
    "feature-worker": _feature_worker,
    "learner": _learner,
    "recommender": _recommender,
    "gateway": _gateway,
    "release-manager": _release_manager,
    "archiver": _archiver,
    "alert-bridge": _alert_bridge,
}
# What `headrace demo` starts: the archive is for training, and nothing waits for it.
DEMO_PARTS = ("feature-worker", "learner", "recommender", "gateway", "release-manager")
