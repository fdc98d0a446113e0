"""Which signals are watched, how, and what is done when one moves: lines of a YAML or TOML file."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from headrace.online_model.watching.signals import EVENT_MIXES
from headrace.schemas.drift_alerts import DriftKind

DEFAULT_FILE = Path(__file__).with_name("watches.yaml")

Direction = Literal["up", "down", "both"]
DetectorName = Literal[
    "windows", "adwin", "page_hinkley", "kswin", "ddm", "eddm", "hddm_a", "hddm_w", "psi", "ks", "chi_square", "mmd", "classifier"
]
Transform = Literal["none", "sqrt"]
Severity = Literal["info", "warning", "critical"]
ReactionName = Literal["learn_faster", "forget_faster", "forget_slower", "fine_tune", "retrain", "fall_back", "only_tell"]

DETECTORS: tuple[str, ...] = get_args(DetectorName)
# With more, nothing would hold: a thousandth of all events were false alarms.
MOST_FALSE_ALARMS_PER_MILLION = 1000
_CHOICES: dict[str, tuple[str, ...]] = {
    "detector": DETECTORS,
    "direction": get_args(Direction),
    "transform": get_args(Transform),
    "severity": get_args(Severity),
    "kind": get_args(DriftKind),
    "reaction": get_args(ReactionName),
}


class BadConfiguration(ValueError):
    """A file of watches cannot be used; the message names file, watch, field, value, and what was expected."""


@dataclass(frozen=True)
class Watch:
    """A signal, and how it is watched.

    `segment` narrows it to the events with these names, such as {"category": "tents"}. `direction` is the one that counts, `up`
    for a loss. `kind` is what it speaks of: concept (how well the model foresees), data, or service. `warm_up` is how many
    values only teach what is usual. `share` is its part of the false alarms that are allowed, beside the other watches' shares.
    `least_change` is how far the level must move to be worth telling, in standard deviations of single values. `transform` is
    applied to values before they are averaged: a loss has a long tail, of which the square root makes less. Mixes have no values, and so
    none.
    """

    signal: str
    detector: DetectorName = "windows"
    segment: Mapping[str, str] = field(default_factory=dict)
    direction: Direction = "both"
    severity: Severity = "warning"
    kind: DriftKind = "data"
    reaction: ReactionName = "only_tell"
    warm_up: int = 4096
    share: float = 1.0
    least_change: float = 0.05
    transform: Transform = "none"

    @property
    def name(self) -> str:
        """The signal, and its segment where it has one: `hit_rate[category=tents]`."""
        if not self.segment:
            return self.signal
        return f"{self.signal}[{','.join(f'{key}={value}' for key, value in sorted(self.segment.items()))}]"


@dataclass(frozen=True)
class Configuration:
    """All watches, and what holds for them together.

    `false_alarms_per_million`, at most 1,000, bounds the false alarms of all watches together, for a million events. `block` is how many
    values are averaged before detectors see them. Findings within `group_events` of an episode's last belong to it. An episode is told
    again each `ongoing_events`, and has ended when for `settled_events` nothing moved. `only_tell` switches all reactions off.
    """

    watches: tuple[Watch, ...]
    false_alarms_per_million: float = 0.5
    block: int = 64
    group_events: int = 8192
    ongoing_events: int = 16384
    settled_events: int = 8192
    only_tell: bool = False
    explain_by: tuple[str, ...] = ("category", "surface")


def load_configuration(file: Path = DEFAULT_FILE) -> Configuration:
    """Read watches from a YAML or TOML file. Raises BadConfiguration, and OSError where the file cannot be read."""
    text = file.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise BadConfiguration(f"{file}: cannot be read: {error}") from error
    try:
        return configuration_of(content)
    except BadConfiguration as error:
        raise BadConfiguration(f"{file}: {error}") from None


def configuration_of(content: object) -> Configuration:
    """Return the configuration that a file's content describes. Raises BadConfiguration."""
    if not isinstance(content, dict) or not isinstance(content.get("watches"), list) or not content["watches"]:
        raise BadConfiguration("a field `watches` with a list of at least one watch was expected")
    watches = tuple(_watch(place, line) for place, line in enumerate(content["watches"], 1))
    names = [watch.name for watch in watches]
    for name in names:
        if names.count(name) > 1:
            raise BadConfiguration(f"watches: {name} stands there {names.count(name)} times; each signal and segment was expected once")
    rest = {key: value for key, value in content.items() if key != "watches"}
    _check_fields("the file", rest, Configuration)
    if "explain_by" in rest:
        if not isinstance(rest["explain_by"], list) or not all(isinstance(key, str) for key in rest["explain_by"]):
            raise BadConfiguration(f"explain_by: a list of names was expected; the value is {rest['explain_by']!r}")
        rest["explain_by"] = tuple(rest["explain_by"])
    return Configuration(watches=watches, **cast(dict[str, Any], rest))


def _watch(place: int, line: object) -> Watch:
    where = f"watch {place}"
    if not isinstance(line, dict):
        raise BadConfiguration(f"{where}: fields and values were expected, not {line!r}")
    where += f" ({line['signal']})" if isinstance(line.get("signal"), str) else ""
    if not isinstance(line.get("signal"), str) or not line["signal"]:
        raise BadConfiguration(f"{where}: signal: a name was expected; the value is {line.get('signal')!r}")
    _check_fields(where, line, Watch)
    for name, choices in _CHOICES.items():
        if name in line and line[name] not in choices:
            raise BadConfiguration(f"{where}: {name}: one of {', '.join(choices)} was expected; the value is {line[name]!r}")
    segment = line.get("segment", {})
    if not isinstance(segment, dict) or not all(isinstance(key, str) and isinstance(value, str) for key, value in segment.items()):
        raise BadConfiguration(f"{where}: segment: names by key were expected, such as {{category: tents}}; the value is {segment!r}")
    if line["signal"] in EVENT_MIXES and line.get("transform", "none") != "none":
        raise BadConfiguration(
            f"{where}: transform: none was expected, since {line['signal']} is a mix of names, which have no root; "
            f"the value is {line['transform']!r}"
        )
    return Watch(**cast(dict[str, Any], line))


def _check_fields(where: str, line: Mapping[str, object], kind: type[Watch] | type[Configuration]) -> None:
    known = {each.name: each.type for each in fields(kind)}
    if unknown := set(line) - set(known):
        raise BadConfiguration(f"{where}: unknown field {', '.join(sorted(map(str, unknown)))}; known are {', '.join(known)}")
    for name, value in line.items():
        expected = known[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if expected is float and not (number and 0 < cast(float, value) < math.inf):
            raise BadConfiguration(f"{where}: {name}: a finite number above 0 was expected; the value is {value!r}")
        if name == "false_alarms_per_million" and cast(float, value) > MOST_FALSE_ALARMS_PER_MILLION:
            raise BadConfiguration(f"{where}: {name}: at most {MOST_FALSE_ALARMS_PER_MILLION:,} was expected; the value is {value!r}")
        if expected is int and not (number and isinstance(value, int) and value > 0):
            raise BadConfiguration(f"{where}: {name}: a whole number above 0 was expected; the value is {value!r}")
        if expected is bool and not isinstance(value, bool):
            raise BadConfiguration(f"{where}: {name}: true or false was expected; the value is {value!r}")
