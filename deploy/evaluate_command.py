"""`headrace evaluate`: models on a file of shop data, each step predicted, then learned."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from headrace.deploy.counting import counting
from headrace.features.user_row import entries_of
from headrace.online_model.evaluation.bootstrap import PairedDifference
from headrace.online_model.evaluation.comparison import Comparison, compare_models
from headrace.online_model.evaluation.models import StreamContext, build, require_known, require_package
from headrace.online_model.evaluation.stream_model import StreamStep
from headrace.online_model.evaluation.written import as_json
from headrace.schemas import Event, shopper_id
from headrace.streams.readers import count_events, open_events
from headrace.streams.simulator import simulate

SIMULATOR = "simulator"
SIMULATED_EVENTS = 20_000
_USUAL_BASELINE = "session_knn"
_SHOWN_SEGMENTS = {"new items": "new_items", "discoveries": "discoveries", "purchases": "purchases"}


class EvaluationRefused(ValueError):
    """What was asked for cannot be evaluated."""


def evaluate(
    data: Path,
    models: str,
    *,
    events: int | None,
    open_sessions: int,
    seed: int,
    baseline: str | None,
    from_share: float,
    plain: bool,
) -> Comparison:
    """Compare the models named in `models`, separated by commas, on the first `events` events of the file `data`.

    Raises EvaluationRefused and UnknownModel where a name is not known, MissingPackage, and InvalidMessage at a bad row.
    """
    names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    require_known(names)
    against = _baseline(names, baseline)
    source, total = _source(data, events, open_sessions, seed)
    with counting("read", plain) as show:
        stream = list(_steps(source, total, show))
    if not stream:
        raise EvaluationRefused(f"DATA: at least one event was expected, but {data.name} has none")
    context = StreamContext(stream[-1].event + 1, len(stream))
    places = {name: place for place, name in enumerate(names)}
    with counting("evaluate", plain) as show:

        def progress(name: str, done: int, steps: int) -> None:
            show(places[name] * steps + done, len(names) * steps, name)

        return compare_models(
            stream,
            {name: partial(build, name, seed, context) for name in names},
            baseline=against,
            from_share=from_share,
            seed=seed,
            clock=time.perf_counter_ns,
            progress=progress,
        )


def require_places(json_file: Path | None, picture: Path | None) -> None:
    """Raise EvaluationRefused or MissingPackage where what is found could not be written: better before a long run than after it."""
    for option, file in (("json", json_file), ("png", picture)):
        if file is not None and not file.parent.is_dir():
            raise EvaluationRefused(f"{option}: a file in a folder that exists was expected; there is no folder {file.parent}")
    if picture is not None:
        require_package("matplotlib", "--png")


def write(comparison: Comparison, data: str, *, seed: int, open_sessions: int, json_file: Path | None, picture: Path | None) -> None:
    """Write the comparison as JSON and as a PNG, where files are given for them."""
    if json_file is not None:
        told = as_json(comparison, data=data, seed=seed, open_sessions=open_sessions)
        json_file.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n")
    if picture is not None:
        from headrace.online_model.evaluation.picture import draw

        draw(comparison, data, picture)


def told(comparison: Comparison) -> list[str]:
    """Return the comparison as lines of text: what was asked, then a table with a line for each model, the baseline's marked `*`."""
    lines = [f"{len(comparison.questions)} steps scored, from event {comparison.first_event} of {comparison.events} on"]
    lines.append(_line("model", ["HR@20", "NDCG@20", "MRR@20", *_SHOWN_SEGMENTS, "ms", "learn/s"], "versus *"))
    for name, report in comparison.models.items():
        figures = [_figure(report.whole.quality[measure]) for measure in ("hr@20", "ndcg@20", "mrr@20")]
        figures += [_figure(report.segments[segment].quality["hr@20"]) for segment in _SHOWN_SEGMENTS.values()]
        figures += [f"{report.ms_per_query:.3f}", "-" if report.learn_events_per_s is None else f"{report.learn_events_per_s:.0f}"]
        marked = f"{name} *" if name == comparison.baseline else name
        lines.append(_line(marked, figures, "" if report.versus_baseline is None else _ratio(report.versus_baseline)))
    lines.append("new items, discoveries (not in the shopper's own history) and purchases: HR@20 of these targets")
    lines.append("versus *: NDCG@20 divided by the baseline's, with its 95% interval; ms: the mean time of an answer")
    return lines


def _line(name: str, figures: list[str], versus: str) -> str:
    return f"{name:22}{''.join(f'{figure:>12}' for figure in figures)}  {versus}".rstrip()


def _ratio(found: PairedDifference) -> str:
    interval = "" if found.ratio_interval is None else " ({:.3f} to {:.3f})".format(*found.ratio_interval)
    return f"{_figure(found.ratio)}{interval}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _baseline(names: list[str], given: str | None) -> str:
    if not names:
        raise EvaluationRefused("models: at least one name was expected, such as popularity,covisitation,session_knn")
    if given is None:
        return _USUAL_BASELINE if _USUAL_BASELINE in names else names[0]
    if given not in names:
        raise EvaluationRefused(f"baseline: one of the models of this run ({', '.join(names)}) was expected, not {given!r}")
    return given


def _source(data: Path, events: int | None, open_sessions: int, seed: int) -> tuple[Iterable[Event], int]:
    """Return the events and how many there are."""
    if data.is_file():
        there = count_events(data)
        total = there if events is None else min(events, there)
        return islice(open_events(data, open_sessions=open_sessions, seed=seed), total), total
    if str(data) == SIMULATOR:
        total = SIMULATED_EVENTS if events is None else events
        return simulate(seed, events=total), total
    raise EvaluationRefused(f"DATA: a file of shop data, or {SIMULATOR}, was expected; there is no file {data}")


def _steps(source: Iterable[Event], total: int, show: Callable[[int, int, str], None]) -> Iterator[StreamStep]:
    for number, event in enumerate(source):
        shopper = shopper_id(event)
        for entry in entries_of(event):
            yield StreamStep(shopper, entry, number)
        if number % 1024 == 0:
            show(number, total, "")
