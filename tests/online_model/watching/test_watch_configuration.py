"""Files of watches: the one that comes with Headrace, what may stand in one, and what is said of mistakes."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.online_model.watching.configuration import (
    BadConfiguration,
    Configuration,
    Watch,
    configuration_of,
    load_configuration,
)
from headrace.online_model.watching.signals import EVENT_MIXES, EVENT_SIGNALS, LIST_SIGNALS, SERVICE_SIGNALS

ONE_WATCH = "watches:\n  - {signal: price}\n"


def refused(tmp_path: Path, text: str, name: str = "own.yaml") -> str:
    """Return what is said of a file with this text."""
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BadConfiguration) as told:
        load_configuration(file)
    assert str(told.value).startswith(f"{file}: ")
    return str(told.value)


def test_the_watches_that_come_along_are_signals_that_somebody_tells() -> None:
    configuration = load_configuration()
    known = {*EVENT_SIGNALS, *EVENT_MIXES, *LIST_SIGNALS, *SERVICE_SIGNALS}
    assert {watch.signal for watch in configuration.watches} <= known
    assert configuration.false_alarms_per_million == 0.5
    loss = next(watch for watch in configuration.watches if watch.signal == "lasting_loss")
    assert (loss.direction, loss.kind, loss.reaction, loss.transform) == ("up", "concept", "learn_faster", "sqrt")


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(ONE_WATCH)
    assert load_configuration(file) == Configuration((Watch("price"),))


def test_toml_says_the_same_as_yaml(tmp_path: Path) -> None:
    yaml_file, toml_file = tmp_path / "own.yaml", tmp_path / "own.toml"
    yaml_file.write_text(
        "only_tell: true\nexplain_by: [country]\nwatches:\n  - {signal: hit_rate, direction: down, segment: {category: tents}, share: 3}\n"
    )
    toml_file.write_text(
        'only_tell = true\nexplain_by = ["country"]\n'
        '[[watches]]\nsignal = "hit_rate"\ndirection = "down"\nsegment = {category = "tents"}\nshare = 3\n'
    )
    configuration = load_configuration(yaml_file)
    assert load_configuration(toml_file) == configuration
    assert configuration.only_tell
    assert configuration.explain_by == ("country",)
    assert configuration.watches[0].name == "hit_rate[category=tents]"


def test_a_segment_s_keys_are_named_in_the_same_order_always() -> None:
    first, second = Watch("price", segment={"b": "2", "a": "1"}), Watch("price", segment={"a": "1", "b": "2"})
    assert first.name == second.name == "price[a=1,b=2]"
    assert replace(first, segment={}).name == "price"


@pytest.mark.parametrize(
    ("field", "value", "shown", "expected"),
    [
        ("detector", "adwim", "'adwim'", "one of windows, adwin,"),
        ("direction", "sideways", "'sideways'", "one of up, down, both was expected"),
        ("severity", "grave", "'grave'", "one of info, warning, critical was expected"),
        ("kind", "weather", "'weather'", "one of concept, data, service was expected"),
        ("reaction", "panic", "'panic'", "one of learn_faster,"),
        ("transform", "log", "'log'", "one of none, sqrt was expected"),
        ("warm_up", "0", "0", "a whole number above 0 was expected"),
        ("warm_up", "1.5", "1.5", "a whole number above 0 was expected"),
        ("share", "-1", "-1", "a finite number above 0 was expected"),
        ("share", "true", "True", "a finite number above 0 was expected"),
        ("share", ".inf", "inf", "a finite number above 0 was expected"),
        ("least_change", ".nan", "nan", "a finite number above 0 was expected"),
        ("least_change", ".inf", "inf", "a finite number above 0 was expected"),
        ("segment", "tents", "'tents'", "names by key were expected"),
        ("segment", "{category: 7}", "{'category': 7}", "names by key were expected"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_watch_and_field(tmp_path: Path, field: str, value: str, shown: str, expected: str) -> None:
    told = refused(tmp_path, f"watches:\n  - {{signal: price}}\n  - {{signal: hit_rate, {field}: {value}}}\n")
    assert f": watch 2 (hit_rate): {field}: " in told
    assert expected in told
    assert told.endswith(f"the value is {shown}")


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("false_alarms_per_million: 0", "false_alarms_per_million", "a finite number above 0 was expected; the value is 0"),
        ("false_alarms_per_million: .inf", "false_alarms_per_million", "a finite number above 0 was expected; the value is inf"),
        ("false_alarms_per_million: .nan", "false_alarms_per_million", "a finite number above 0 was expected; the value is nan"),
        ("false_alarms_per_million: 1000.5", "false_alarms_per_million", "at most 1,000 was expected; the value is 1000.5"),
        ("block: 6.4", "block", "a whole number above 0 was expected; the value is 6.4"),
        ("settled_events: soon", "settled_events", "a whole number above 0 was expected; the value is 'soon'"),
        ("only_tell: 1", "only_tell", "true or false was expected; the value is 1"),
        ("explain_by: category", "explain_by", "a list of names was expected; the value is 'category'"),
    ],
)
def test_a_wrong_value_for_all_watches_is_named(tmp_path: Path, line: str, field: str, expected: str) -> None:
    told = refused(tmp_path, f"{line}\n{ONE_WATCH}")
    assert f"{field}: {expected}" in told


@pytest.mark.parametrize("signal", EVENT_MIXES)
def test_a_mix_of_names_has_no_root(tmp_path: Path, signal: str) -> None:
    told = refused(tmp_path, f"watches:\n  - {{signal: {signal}, transform: sqrt}}\n")
    assert f"watch 1 ({signal}): transform: none was expected" in told
    assert told.endswith("the value is 'sqrt'")
    assert configuration_of({"watches": [{"signal": signal, "transform": "none"}]}).watches[0].transform == "none"


def test_an_unknown_field_is_told_with_the_known_ones(tmp_path: Path) -> None:
    told = refused(tmp_path, "watches:\n  - {signal: price, colour: red}\n")
    assert "watch 1 (price): unknown field colour; known are signal, detector, segment," in told
    assert "unknown field blocks; known are " in refused(tmp_path, f"blocks: 3\n{ONE_WATCH}")


@pytest.mark.parametrize("line", ["{direction: up}", "{signal: ''}", "{signal: 7}"])
def test_a_watch_needs_a_signal(tmp_path: Path, line: str) -> None:
    told = refused(tmp_path, f"watches:\n  - {line}\n")
    assert "watch 1" in told
    assert "signal: a name was expected; the value is " in told


def test_a_signal_is_watched_once_for_each_segment(tmp_path: Path) -> None:
    told = refused(tmp_path, "watches:\n  - {signal: price}\n  - {signal: price, direction: up}\n")
    assert "price stands there 2 times" in told
    narrowed = [{"signal": "price", "segment": {"category": name}} for name in ("tents", "boots")]
    assert len(configuration_of({"watches": [{"signal": "price"}, *narrowed]}).watches) == 3


@pytest.mark.parametrize("text", ["", "watches: []\n", "watches: price\n", "[1, 2]\n"])
def test_a_file_without_watches_is_refused(tmp_path: Path, text: str) -> None:
    assert "a field `watches` with a list of at least one watch was expected" in refused(tmp_path, text)


@pytest.mark.parametrize(("name", "text"), [("own.yaml", "watches: [{"), ("own.toml", "watches = [")])
def test_a_file_that_is_no_yaml_or_toml_is_refused(tmp_path: Path, name: str, text: str) -> None:
    assert "cannot be read: " in refused(tmp_path, text, name)


def test_a_watch_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "watch 1: fields and values were expected, not 'price'" in refused(tmp_path, "watches:\n  - price\n")
