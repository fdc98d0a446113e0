"""Telling on `drift-state` how each watched signal stands."""

import math
from collections.abc import Sequence

from confluent_kafka import Producer

from headrace.online_model.watching.configuration import Configuration
from headrace.online_model.watching.watchtower import SignalState
from headrace.schemas import DriftState, encode
from headrace.schemas.topics import DRIFT_STATE
from headrace.schemas.wire import headers

MOST_BINS = 100


class DriftStates:
    """Sends the states of signals; a lost one is followed by the next."""

    def __init__(self, producer: Producer, component: str, configuration: Configuration) -> None:
        self._producer = producer
        self._component = component
        self._detectors = {watch.name: watch.detector for watch in configuration.watches}

    def tell(self, states: Sequence[SignalState], model_version: int, now_ms: int) -> None:
        """Send all states, without waiting for their acknowledgement."""
        for state in states:
            message = self._message(state, model_version, now_ms)
            tags = headers(message, event_id=f"{state.name}-{now_ms}", time_ms=now_ms, source=self._component)
            self._producer.produce(DRIFT_STATE.name, encode(message), state.name, headers=tags)
        self._producer.poll(0)

    def _message(self, state: SignalState, model_version: int, now_ms: int) -> DriftState:
        fits = len(state.histogram_now) <= MOST_BINS
        return DriftState(
            signal=state.name[:128],
            detector=self._detectors.get(state.name, "windows"),
            state=state.state,
            level=_finite(state.level),
            baseline=_finite(state.baseline),
            since_ms=state.since_ms,
            histogram_then=list(state.histogram_then) if fits else [],
            histogram_now=list(state.histogram_now) if fits else [],
            edges=list(state.edges) if fits else [],
            model_version=model_version,
            reported_ms=now_ms,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
