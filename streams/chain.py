"""The rules by which a chain of updates is followed, apart from Kafka: what is taken in, what is refused and why, and the way back.

An update is a link from one version of the weights to the next, named by number and SHA-256. Whatever comes, in whatever order, the
weights at hand are always those that `ChainFollower.present` names: a link is taken in only where its base is present and its bytes are
those of its manifest. After a fault the newest version is looked for that can be reached, from here or from a good snapshot.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from headrace.schemas import ModelUpdate

Name = tuple[int, str]
Key = tuple[str, Name]
# A manifest, apart from another one of the same version that was published later.
ModelUpdateId = tuple[str, Name, int, int]

NOTHING: Name = (0, "0" * 64)
KNOWN_UPDATES = 4096


class Reason(StrEnum):
    """Why an update was not taken in, or not when it came; also the label of the metric."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "reordered"
    FORKED = "forked"
    FORGED = "forged"
    REPLAYED = "replayed"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    MISSING_PARTS = "missing_parts"
    BAD_MANIFEST = "bad_manifest"
    BAD_UPDATE = "bad_update"


class Unfit(ValueError):
    """What an applier raises where an update must not be taken in and nothing was changed."""


@dataclass(frozen=True)
class NotYet:
    """Stands for bytes that may still come."""


NOT_YET = NotYet()

# Hands over the bytes of an update: None where they can never come; with `fresh` they are looked for once more, elsewhere.
PayloadOf = Callable[[ModelUpdate, bool], bytes | NotYet | None]
# Takes an update in, or raises Unfit having changed nothing.
Apply = Callable[[ModelUpdate, bytes], None]
Refuse = Callable[[ModelUpdate, Reason | str, str], None]


def name_of(update: ModelUpdate) -> Name:
    """Return the version that an update leads to."""
    return update.version, update.weights_sha256


def base_of(update: ModelUpdate) -> Name:
    """Return the version that a delta builds on."""
    return update.base_version, update.base_sha256


class KnownUpdates:
    """Manifests that were seen, the newest of bounded number, and the ways through them."""

    def __init__(self, most: int = KNOWN_UPDATES) -> None:
        self._most = most
        self._updates: OrderedDict[Key, ModelUpdate] = OrderedDict()

    def holds(self, name: Name) -> bool:
        """Whether an update to this version was seen."""
        return ("delta", name) in self._updates or ("snapshot", name) in self._updates

    def add(self, update: ModelUpdate) -> None:
        """Remember a manifest."""
        self._updates[_key(update)] = update
        if len(self._updates) > self._most:
            self._updates.popitem(last=False)

    def way(self, present: Name, stored: Iterable[ModelUpdate] = (), broken: Collection[Key] = ()) -> list[ModelUpdate]:
        """Return the updates that lead to the newest version that can be reached; none where that is present.

        The way may begin with one of the `stored` snapshots; to those alone, which may be of another chain, it leads only where there
        is no other. Whoever has weights already goes on from them, or from a newer snapshot: never back to an older one and onto another
        branch.
        """
        usable = {_key(update): update for update in stored} | self._updates
        for key in broken:
            usable.pop(key, None)
        ends = sorted(((key in self._updates, key[1]) for key in usable if key[1][0] > present[0]), reverse=True)
        dead: set[Name] = set()
        for _, end in ends:
            found = _way_back(end, present, usable, dead)
            if found is not None:
                return found
        return []

    def walk(self, from_version: int) -> list[ModelUpdate]:
        """Return all updates in their order, from the newest snapshot of at most `from_version` on, so that each builds on the one before.

        Where one builds on an older version, as after a rollback, the way to that is gone once more before it.
        """
        updates = list(self._updates.values())
        starts = [place for place, update in enumerate(updates) if update.kind == "snapshot" and update.version <= from_version]
        walk: list[ModelUpdate] = []
        place = NOTHING
        for update in updates[max(starts, key=lambda start: (updates[start].version, -start), default=len(updates)) :]:
            if name_of(update) == place:
                continue
            if update.kind == "delta" and base_of(update) != place:
                way = _way_back(base_of(update), NOTHING, self._updates, set())
                if way is None:
                    continue
                walk += way
            walk.append(update)
            place = name_of(update)
        return walk


class ChainFollower:
    """Takes updates in one by one and keeps to the chain. All that it does to the world goes through what it is given.

    `payload_of`, `apply` and `refuse` are as their types tell; `snapshots` gives the newest snapshots elsewhere, of a higher version than
    the number that it gets. A delta that does not build on what is present is taken in only where `may_fork` says so. `unfit` are the
    errors by which `apply` refuses; one with an attribute `label` names its own reason.
    """

    def __init__(
        self,
        payload_of: PayloadOf,
        apply: Apply,
        refuse: Refuse,
        *,
        snapshots: Callable[[int], Sequence[ModelUpdate]] = lambda version: (),
        may_fork: Callable[[ModelUpdate], bool] = lambda update: False,
        unfit: type[ValueError] = Unfit,
    ) -> None:
        self._payload_of = payload_of
        self._apply = apply
        self._refuse = refuse
        self._snapshots = snapshots
        self._may_fork = may_fork
        self._unfit = unfit
        self._known = KnownUpdates()
        self._came_before: OrderedDict[ModelUpdateId, None] = OrderedDict()
        self._broken: set[Key] = set()
        # What leads from here to the newest version, one update after the other, and what has come since, in its order.
        self._way: deque[ModelUpdate] = deque()
        self._came: deque[ModelUpdate] = deque()
        self._is_given = False
        self.present: Name = NOTHING
        self.newest_seen = 0

    @property
    def awaited(self) -> ModelUpdate | None:
        """The update that is to be taken in or refused next; None where nothing waits."""
        waiting = self._way or self._came
        return waiting[0] if waiting else None

    @property
    def is_on_way(self) -> bool:
        """Whether updates that were known before, at the start or at a fault, are still being taken in."""
        return bool(self._way)

    def begin(self, known: Iterable[ModelUpdate], way: Sequence[ModelUpdate], *, to_its_end: bool = False) -> None:
        """Take up the chain that `known` manifests tell of, by a way through them; call it before all else.

        Where an update on it fails, another way is looked for, unless the way is to be gone `to_its_end`.
        """
        for update in known:
            self._saw(update)
        self._is_given = to_its_end
        self._way.extend(way)

    def offer(self, update: ModelUpdate) -> None:
        """Hand in a manifest that has come and can be trusted."""
        self._came.append(update)

    def advance(self) -> None:
        """Take in or refuse what waits, until an update's bytes are missing that may still come."""
        while self._way or self._came:
            if not (self._go_on() if self._way else self._decide(self._came[0])):
                return

    def look_again(self) -> None:
        """Look once more for a way to the newest version where none is known, since `snapshots` may tell of more by now."""
        if not self._way and self.newest_seen > self.present[0]:
            self._resync()

    def _go_on(self) -> bool:
        """Take in the next update of the way; return False where its bytes may still come."""
        taken = self._try(self._way[0])
        if taken is None:
            return False
        self._way.popleft()
        if not taken and not self._is_given:
            self._way.clear()
            self._resync()
        return True

    def _decide(self, update: ModelUpdate) -> bool:
        """Take in or refuse an update that has come; return False where its bytes may still come."""
        fault = self._fault_of(update)
        taken = self._try(update) if fault is None else False
        if taken is None:
            return False
        self._came.popleft()
        reason, told = fault or (None, "")
        if reason is not None:
            self._refuse(update, reason, told)
        elif taken and update.version < self.newest_seen:
            self._refuse(update, Reason.REORDERED, "it came after a later one, and is taken in now")
        self._saw(update)
        if self.newest_seen > self.present[0]:
            self._resync()
        return True

    def _fault_of(self, update: ModelUpdate) -> tuple[Reason | None, str] | None:
        """Return why an update is not to be taken in, no reason where it rightly repeats what is present; None where it is."""
        version = self.present[0]
        told = f"it builds on version {update.base_version} ({update.base_sha256[:12]}); here is version {version} ({self.present[1][:12]})"
        if update.version <= version:
            if _id_of(update) in self._came_before:
                return (Reason.REPLAYED if update.version < version else Reason.DOUBLED), f"it has come before; {told}"
            if update.kind == "snapshot" and (name_of(update) == self.present or self._known.holds(name_of(update))):
                # The snapshot of a version follows its delta, and that of the stable version comes once more after a rollback.
                return None, told
            return (Reason.FORKED if update.version == version and name_of(update) != self.present else Reason.REORDERED), told
        if update.kind == "snapshot" or base_of(update) == self.present or self._may_fork(update):
            return None
        return (Reason.LOST if update.base_version > version else Reason.FORKED), told

    def _try(self, update: ModelUpdate) -> bool | None:
        """Take an update in; return whether it was taken, None where its bytes may still come."""
        payload = self._payload_of(update, False)
        if isinstance(payload, NotYet):
            return None
        damage = _damage(update, payload)
        if damage is not None:
            again = self._payload_of(update, True)
            if not isinstance(again, NotYet) and _damage(update, again) is None:
                payload, damage = again, None
        if damage is None and payload is not None:
            try:
                self._apply(update, payload)
            except self._unfit as error:
                damage = getattr(error, "label", Reason.BAD_UPDATE), str(error)
        if damage is not None:
            self._refuse(update, *damage)
            self._broken.add(_key(update))
            return False
        self.present = name_of(update)
        self._broken = {key for key in self._broken if key[1][0] > update.version}
        return True

    def _resync(self) -> None:
        """Look for a way to a newer version, from here or from a snapshot."""
        self._is_given = False
        self._way.extend(self._known.way(self.present, self._snapshots(self.present[0]), self._broken))

    def _saw(self, update: ModelUpdate) -> None:
        self._known.add(update)
        self._came_before[_id_of(update)] = None
        if len(self._came_before) > KNOWN_UPDATES:
            self._came_before.popitem(last=False)
        self.newest_seen = max(self.newest_seen, update.version)


def _key(update: ModelUpdate) -> Key:
    return update.kind, name_of(update)


def _id_of(update: ModelUpdate) -> ModelUpdateId:
    return update.kind, name_of(update), update.payload_offset, update.created_ms


def _way_back(end: Name, present: Name, usable: Mapping[Key, ModelUpdate], dead: set[Name]) -> list[ModelUpdate] | None:
    """Return the updates that lead to `end`, from what is present or from a snapshot; None where there are none such.

    `dead` are versions from which no way was found back; it grows.
    """
    way: list[ModelUpdate] = []
    passed: set[Name] = set()
    place = end
    while place != present and place not in dead | passed:
        passed.add(place)
        snapshot, delta = usable.get(("snapshot", place)), usable.get(("delta", place))
        # A delta on top of what is present is less to read than the whole.
        if snapshot is not None and (place[0] > present[0]) and (delta is None or base_of(delta) != present):
            return [snapshot, *reversed(way)]
        if delta is None or delta.base_version >= delta.version:
            break
        way.append(delta)
        place = base_of(delta)
    if place == present and present != NOTHING:
        return way[::-1]
    dead |= passed
    return None


def _damage(update: ModelUpdate, payload: bytes | None) -> tuple[Reason | str, str] | None:
    if payload is None:
        return Reason.MISSING_PARTS, "its bytes are not there"
    if len(payload) < update.payload_bytes:
        return Reason.TRUNCATED, f"its payload has {len(payload)} bytes, the manifest says {update.payload_bytes}"
    if len(payload) > update.payload_bytes or hashlib.sha256(payload).hexdigest() != update.payload_sha256:
        return Reason.DAMAGED, f"its payload of {len(payload)} bytes is not the one that the manifest names"
    if update.kind == "delta":
        chained = hashlib.sha256(f"{update.base_sha256}{update.payload_sha256}".encode()).hexdigest()
        if chained != update.weights_sha256:
            return Reason.BAD_MANIFEST, "weights_sha256 does not follow from its base and payload"
    return None
