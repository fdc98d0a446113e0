"""`POST /v1/events`, the pure part: from a body to events and refusals, and from what became of them to an answer."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from msgspec import Raw, Struct

from headrace.schemas import Click, Event, InvalidMessage, Purchase, check_event, decode
from headrace.streams.gateway_messages import EventOutcome, EventsAnswer, RefusedEvents
from headrace.streams.settlement import Outcome

MOST_EVENTS = 1000
_KINDS: dict[object, type[Click] | type[Purchase]] = {"click": Click, "purchase": Purchase}
_object = msgspec.json.Decoder(dict[str, Raw])
_array = msgspec.json.Decoder(list[Raw])


class NotJson(ValueError):
    """A body that is not JSON."""


@dataclass(frozen=True)
class Refusal:
    """An event that is not valid, its id where it names one, and why."""

    event_id: str | None
    error: InvalidMessage


class _Head(Struct):
    type: object = None
    event_id: object = None


_head = msgspec.json.Decoder(_Head)


def read_events(body: bytes, now_ms: int) -> list[Event | Refusal]:
    """Return the events of a body, which holds one event or `{"events": [...]}`, in order; each that is not valid as a Refusal.

    Raises NotJson, or InvalidMessage where the body is neither of the two.
    """
    parts = read_object(body)
    if "events" not in parts:
        return [_read_event(body, now_ms)]
    other = next((name for name in parts if name != "events"), None)
    if other is not None:
        raise InvalidMessage(f"$.{other}", bytes(parts[other]).decode(), "beside 'events' no other field was expected")
    try:
        events = _array.decode(parts["events"])
    except msgspec.ValidationError:
        raise InvalidMessage("$.events", bytes(parts["events"]).decode(), "a list of events was expected") from None
    if not 1 <= len(events) <= MOST_EVENTS:
        raise InvalidMessage("$.events", f"a list of {len(events)}", f"1 to {MOST_EVENTS} events were expected")
    return [_read_event(bytes(event), now_ms) for event in events]


def read_object(body: bytes) -> dict[str, Raw]:
    """Return the fields of a JSON object. Raises NotJson, or InvalidMessage where it is something else."""
    try:
        text = body.decode()
        return _object.decode(text)
    except msgspec.ValidationError:
        raise InvalidMessage("$", text, "an object was expected") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(f"the body is not JSON: {error}; it begins with {body[:40]!r}") from None


def answer(read: Iterable[Event | Refusal], published: Iterable[Outcome]) -> tuple[int, EventsAnswer]:
    """Return the HTTP status and the answer. `published` are the outcomes of those that were events, in order.

    202 where at least one was acknowledged, 422 where all were refused, and 503 where the others may succeed later.
    """
    waiting = iter(published)
    outcomes = [_refused(part) if isinstance(part, Refusal) else _published(next(waiting)) for part in read]
    accepted = sum(outcome.status == "acknowledged" for outcome in outcomes)
    refused = sum(outcome.status == "refused" for outcome in outcomes)
    undelivered = len(outcomes) - accepted - refused
    if refused < len(outcomes):
        told = EventsAnswer(outcomes=outcomes, accepted=accepted, refused=refused, undelivered=undelivered)
        return (202 if accepted else 503), told
    first = outcomes[0]
    return 422, RefusedEvents(
        outcomes=outcomes,
        accepted=0,
        refused=refused,
        undelivered=0,
        message=first.reason or "",
        field=first.field,
        value=first.value,
        expected=first.expected,
    )


def _read_event(raw: bytes, now_ms: int) -> Event | Refusal:
    event_id = None
    try:
        try:
            head = _head.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidMessage("$", raw.decode(), "an event was expected, an object with the field 'type'") from None
        event_id = head.event_id if isinstance(head.event_id, str) else None
        kind = _KINDS.get(head.type) if isinstance(head.type, str) else None
        if kind is None:
            raise InvalidMessage("$.type", head.type, "'click' or 'purchase' was expected")
        event: Event = decode(kind, raw)
        check_event(event, now_ms)
        return event
    except InvalidMessage as error:
        return Refusal(event_id, error)


def _refused(refusal: Refusal) -> EventOutcome:
    error = refusal.error
    return EventOutcome(
        event_id=refusal.event_id, status="refused", reason=str(error), field=error.field, value=shown(error), expected=error.expected
    )


def _published(outcome: Outcome) -> EventOutcome:
    return EventOutcome(event_id=outcome.event_id, status=outcome.status, reason=outcome.reason, field=outcome.field)


def shown(error: InvalidMessage) -> str:
    """Return the refused value, shortened."""
    text = repr(error.value)
    return text if len(text) <= 120 else f"{text[:117]}..."
