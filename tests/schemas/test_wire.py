"""The wire format, held byte for byte: golden files, and properties over any message and any bytes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from headrace.schemas import (
    Attribution,
    Cause,
    Click,
    DeadLetter,
    DriftAlert,
    DriftState,
    Event,
    HistoryEntry,
    InvalidMessage,
    ItemChange,
    ItemRow,
    MemoryReaction,
    ModelRelease,
    ModelUpdate,
    OrderLine,
    Pane,
    Purchase,
    RankingWeights,
    Recommendation,
    RecommendedItem,
    ReleaseOutcomes,
    UserRow,
    VersionOutcome,
    decode,
    encode,
    headers,
)
from headrace.schemas.recommendations import Reason
from headrace.schemas.topics import TOPICS
from headrace.schemas.wire import SCHEMA_MAJOR, SCHEMA_MINOR, kebab

GOLDEN = Path(__file__).parent / "golden"
NOW_MS = 1_760_000_000_123
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
THIS, LATER = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}", f"{SCHEMA_MAJOR}.{SCHEMA_MINOR + 1}"
NEXT_MAJOR = f"{SCHEMA_MAJOR + 1}.0"
NAMES = "ab" * 32, "cd" * 32, "ef" * 32

MESSAGES: list[Struct] = [
    Click(
        event_id="click-1",
        event_time_ms=NOW_MS,
        item_id="lamp",
        user_id="ada",
        action="cart",
        price=19.9,
        category="Möbel & Licht",
        attribution=Attribution(recommendation_id="r-1", position=0, surface="home", query='"red" lamp'),
    ),
    Purchase(
        event_id="order-event-1",
        event_time_ms=NOW_MS,
        order_id="order-1",
        lines=[OrderLine(item_id="lamp", quantity=2, unit_price=19.9), OrderLine(item_id="chair")],
        currency="EUR",
        total=88.0,
        session_id="guest-7",
    ),
    ItemChange(
        item_id="lamp",
        kind="purchase",
        quantity=2,
        event_time_ms=NOW_MS,
        source="purchases/3",
        offset=41,
        published_ms=NOW_MS,
        price=19.9,
        amount=39.8,
        category="light",
    ),
    UserRow(
        shopper_id="session:guest-7",
        history=[HistoryEntry("lamp", "view", NOW_MS - 5, 19.9, "light"), HistoryEntry("lamp", "purchase", NOW_MS)],
        steps=2,
        views=1,
        purchases=1,
        spend=39.8,
        panes=[Pane(NOW_MS - 123, 1, 0, 1, 39.8)],
        last_purchase_ms=NOW_MS,
        updated_ms=NOW_MS,
        seen_ms=NOW_MS,
        newest_ms={"clicks/0": NOW_MS - 5, "purchases/0": NOW_MS},
        recent={"clicks/0": bytes(range(16))},
        offsets={"clicks/0": 7, "purchases/0": 41},
        cause=Cause(event_id="order-event-1", published_ms=NOW_MS),
    ),
    ItemRow(
        item_id="lamp",
        views=3,
        carts=1,
        purchases=1,
        units=2,
        decayed_views=2.5,
        decayed_purchases=1.0,
        price=19.9,
        updated_ms=NOW_MS,
        offsets={"purchases/3": 41},
    ),
    Recommendation(
        recommendation_id="r-1",
        shopper_id="ada",
        items=[
            RecommendedItem(item_id="chair", score=0.25, part="covisitation", because=[Reason(item_id="table", kind="cart", weight=0.75)])
        ],
        model_version=4,
        weights_sha256=NAMES[0],
        created_ms=NOW_MS,
        latency_ms=3.5,
        cause=Cause(event_id="click-1", published_ms=NOW_MS),
    ),
    ModelUpdate(
        model="next-item",
        kind="delta",
        version=5,
        base_version=4,
        weights_sha256=NAMES[1],
        base_sha256=NAMES[0],
        payload_sha256=NAMES[2],
        payload_bytes=12_345,
        payload_parts=1,
        payload_offset=9,
        trigger="count",
        feature_service="next_item",
        created_ms=NOW_MS,
        learned_events=512,
        learned_offsets={"user-features/0": 99},
        learned_published_ms=[NOW_MS - 400, NOW_MS - 300],
        holdout_loss=4.5,
        live_holdout_loss=None,
    ),
    RankingWeights(model="ranking", questions=1200, learned_by="recommender-0", created_ms=NOW_MS, payload=bytes(range(12)), key_id="ab12"),
    MemoryReaction(
        model="next-item",
        reaction_id="episode-1-forget",
        episode_id="episode-1",
        action="forget",
        keep=0.2,
        cut=True,
        decided_ms=NOW_MS,
        key_id="ab12",
    ),
    ModelRelease(
        model="next-item",
        sequence=3,
        action="rollback",
        stable_version=4,
        stable_sha256=NAMES[0],
        withdrawn_to=5,
        trial_share=0.9,
        reason="fewer hits",
        decided_by="release-manager",
        decided_ms=NOW_MS,
        evidence={"trial_hit_rate": 0.2, "stable_hit_rate": 0.3},
        key_id="ab12",
    ),
    ReleaseOutcomes(
        model="next-item",
        instance="recommender-1",
        started_ms=NOW_MS - 1000,
        ended_ms=NOW_MS,
        versions=[VersionOutcome(version=5, lane="trial", answered=10, hits=4, reciprocal_ranks=2.5, clicks=1)],
        key_id="ab12",
    ),
    DriftAlert(
        alert_id="alert-1",
        signal="next-item-loss",
        detector="adwin",
        severity="warning",
        level_before=4.5,
        level_after=6.0,
        window=320,
        observations=20_000,
        model_version=5,
        event_time_ms=NOW_MS,
        created_ms=NOW_MS,
        reaction="fine-tuning",
    ),
    DriftState(
        signal="price[category=tents]",
        detector="windows",
        state="drifting",
        level=4.5,
        baseline=4.0,
        since_ms=NOW_MS - 1000,
        histogram_then=[0.25, 0.75],
        histogram_now=[0.5, 0.5],
        edges=[0.0, 4.0, 8.0],
        model_version=5,
        reported_ms=NOW_MS,
    ),
    DeadLetter(
        topic="clicks",
        partition=2,
        offset=17,
        reason="not JSON",
        field="$",
        raw=b"\x00\xff{",
        component="feature-worker",
        created_ms=NOW_MS,
    ),
]

CONTROL = "".join(map(chr, [*range(32), 127]))
IDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=CONTROL), min_size=1, max_size=128)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=50)
TIMES_MS = st.integers(0, 2**53 - 1)
AMOUNTS = st.none() | st.floats(0, 1e12)
ATTRIBUTIONS = st.none() | st.builds(
    Attribution,
    recommendation_id=st.none() | IDS,
    position=st.none() | st.integers(0, 1_000_000),
    surface=st.none() | TEXTS,
    query=st.none() | TEXTS,
)
CLICKS = st.builds(
    Click,
    event_id=IDS,
    event_time_ms=TIMES_MS,
    item_id=IDS,
    user_id=st.none() | IDS,
    session_id=st.none() | IDS,
    action=st.sampled_from(["view", "cart"]),
    price=AMOUNTS,
    category=st.none() | TEXTS,
    attribution=ATTRIBUTIONS,
)
LINES = st.builds(OrderLine, item_id=IDS, quantity=st.integers(1, 1_000_000), unit_price=AMOUNTS)
PURCHASES = st.builds(
    Purchase,
    event_id=IDS,
    event_time_ms=TIMES_MS,
    order_id=IDS,
    lines=st.lists(LINES, min_size=1, max_size=5),
    currency=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3),
    total=AMOUNTS,
    user_id=st.none() | IDS,
    session_id=st.none() | IDS,
    attribution=ATTRIBUTIONS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def golden(message: Struct) -> Path:
    return GOLDEN / f"{kebab(type(message).__name__)}.json"


def sent_headers(message: Struct) -> list[tuple[str, str]]:
    made = headers(message, event_id="id-1", time_ms=NOW_MS, source="golden", traceparent=TRACE)
    return [(name, value.decode() if isinstance(value, bytes) else str(value)) for name, value in made]


def of_version(message: Struct, version: str) -> list[tuple[str, str | bytes | None]]:
    return [("ce_dataschema", f"urn:headrace:{kebab(type(message).__name__)}:{version}".encode())]


def titled(message: Struct) -> str:
    return type(message).__name__


def test_there_is_a_golden_file_for_each_message_that_has_a_topic() -> None:
    expected = {golden(message).name for message in MESSAGES}
    assert {path.name for path in GOLDEN.iterdir()} == expected
    assert {f"{kebab(topic.message.__name__)}.json" for topic in TOPICS if topic.message} == expected


@pytest.mark.parametrize("message", MESSAGES, ids=titled)
def test_bytes_and_headers_are_those_of_the_golden_file(message: Struct) -> None:
    body, attributes = golden(message).read_bytes().splitlines()
    assert encode(message) == body
    assert sent_headers(message) == [tuple(pair) for pair in json.loads(attributes)]


@pytest.mark.parametrize("message", MESSAGES, ids=titled)
def test_the_golden_bytes_are_read_back_as_the_message(message: Struct) -> None:
    body, attributes = golden(message).read_bytes().splitlines()
    assert decode(type(message), body) == message
    assert decode(type(message), body, [(name, value.encode()) for name, value in json.loads(attributes)]) == message


@pytest.mark.parametrize("message", MESSAGES, ids=titled)
def test_an_unknown_field_is_refused_at_this_version_and_passed_over_at_a_later_one(message: Struct) -> None:
    body = json.loads(encode(message))
    extended = json.dumps(body | {"colour": {"hue": [1]}}).encode()
    for attributes in (None, [], of_version(message, THIS), of_version(message, "nonsense")):
        with pytest.raises(InvalidMessage, match="colour"):
            decode(type(message), extended, attributes)
    assert decode(type(message), extended, of_version(message, LATER)) == message


def test_fields_unknown_to_this_reader_are_passed_over_at_any_depth() -> None:
    click, purchase = MESSAGES[0], MESSAGES[1]
    body = json.loads(encode(click))
    body["attribution"]["campaign"] = "spring"
    assert decode(Click, json.dumps(body).encode(), of_version(click, LATER)) == click
    body = json.loads(encode(purchase))
    body["lines"][1]["gift"] = True
    assert decode(Purchase, json.dumps(body).encode(), of_version(purchase, LATER)) == purchase


def test_a_later_version_does_not_excuse_a_wrong_field() -> None:
    body = json.loads(encode(MESSAGES[1]))
    body["lines"][0]["quantity"] = 0
    with pytest.raises(InvalidMessage) as caught:
        decode(Purchase, json.dumps(body).encode(), of_version(MESSAGES[1], LATER))
    assert caught.value.field == "$.lines[0].quantity"
    assert caught.value.value == 0


@pytest.mark.parametrize("message", MESSAGES, ids=titled)
def test_another_major_version_is_refused_with_what_to_do(message: Struct) -> None:
    with pytest.raises(InvalidMessage, match=f"major version {SCHEMA_MAJOR}; upgrade it") as caught:
        decode(type(message), encode(message), of_version(message, NEXT_MAJOR))
    assert caught.value.field == "ce_dataschema"


@pytest.mark.parametrize("end", ["\n", "\r", "\x00", "\x7f"])
def test_no_control_character_hides_at_the_end_of_an_id(end: str) -> None:
    body = json.dumps({"type": "click", "event_id": "a", "event_time_ms": 1, "item_id": f"lamp{end}"}).encode()
    with pytest.raises(InvalidMessage, match="item_id"):
        decode(Click, body)


@pytest.mark.parametrize(("place", "field"), [(1, "currency"), (2, "source"), (5, "weights_sha256")])
def test_no_line_feed_hides_behind_a_fixed_form(place: int, field: str) -> None:
    body = json.loads(encode(MESSAGES[place]))
    with pytest.raises(InvalidMessage, match=field):
        decode(type(MESSAGES[place]), json.dumps(body | {field: f"{body[field]}\n"}).encode())


@given(CLICKS | PURCHASES)
@settings(max_examples=200, deadline=None)
def test_any_event_is_read_back_as_it_was_sent(event: Event) -> None:
    assert decode(type(event), encode(event)) == event
    assert decode(type(event), encode(event), of_version(event, LATER)) == event


@given(
    kind=st.sampled_from([type(message) for message in MESSAGES]),
    value=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    version=st.sampled_from([THIS, LATER, NEXT_MAJOR, "1.99999999", ""]) | st.text(max_size=5),
)
@settings(max_examples=400, deadline=None)
def test_no_bytes_and_no_header_raise_anything_but_invalid_message(kind: type[Struct], value: bytes, version: str) -> None:
    attributes: list[tuple[str, str | bytes | None]] = [("ce_dataschema", f"urn:headrace:{kebab(kind.__name__)}:{version}")]
    for given_headers in (None, attributes):
        with suppress(InvalidMessage):
            decode(kind, value, given_headers)


@given(
    message=st.sampled_from(MESSAGES),
    changes=st.dictionaries(st.sampled_from(["item_id", "lines", "history", "items", "offsets", "cause", "raw", "type", "x"]), JSON),
    version=st.sampled_from([THIS, LATER]),
)
@settings(max_examples=300, deadline=None)
def test_a_spoilt_message_raises_nothing_but_invalid_message(message: Struct, changes: dict[str, Any], version: str) -> None:
    spoilt = json.dumps(json.loads(encode(message)) | changes).encode()
    with suppress(InvalidMessage):
        decode(type(message), spoilt, of_version(message, version))


@pytest.mark.parametrize("version", [THIS, LATER])
@pytest.mark.parametrize("value", [b"[" * 100_000, b'{"lines":' * 50_000, b'{"event_time_ms":' + b"9" * 10_000 + b"}", b"", None])
def test_bytes_that_exhaust_a_parser_are_an_invalid_message(value: bytes | None, version: str) -> None:
    with pytest.raises(InvalidMessage):
        decode(Purchase, value, of_version(MESSAGES[1], version))
