"""What is done about drift: limits, measured effect, and what is learned from it."""

import json
from typing import Any

import pytest

from headrace.online_model.watching.episodes import EpisodeChange
from headrace.online_model.watching.reaction import HOUR_MS, Reactions

MINUTE_MS = 60_000
BEGIN_MS = 10 * HOUR_MS


def change(episode: str = "e-1", **changes: Any) -> EpisodeChange:
    fields: dict[str, Any] = {
        "episode_id": episode,
        "state": "started",
        "kind": "concept",
        "severity": "warning",
        "signal": "hit_rate",
        "detector": "windows",
        "level_before": 0.5,
        "level_after": 0.3,
        "window": 1000,
        "observations": 100_000,
        "since_ms": 1,
        "time_ms": 2,
        "p_value": 1e-6,
        "reaction": "learn_faster",
    }
    return EpisodeChange(**(fields | changes))


def settled(reactions: Reactions, *, usual: float = 0.5, at: float = 0.3, after: float = 0.45, episode: str = "e-1") -> str:
    """Go through one reaction and return what became of it."""
    for minute in range(10):
        reactions.measure(usual, BEGIN_MS + minute * MINUTE_MS)
    begun_ms = BEGIN_MS + 10 * MINUTE_MS
    assert reactions.decide(change(episode), at, begun_ms) is not None
    assert reactions.measure(at, begun_ms + MINUTE_MS) == []
    [(found, told)] = reactions.measure(after, begun_ms + reactions.settle_ms)
    assert found == episode
    assert (told.quality_before, told.quality_at, told.quality_after) == (usual, at, after)
    assert reactions.of(episode) == [told]
    assert reactions.measure(after, begun_ms + 2 * reactions.settle_ms) == [], "it is settled once"
    return told.state


def test_what_wins_back_enough_of_the_loss_is_kept_and_what_does_not_is_withdrawn() -> None:
    assert settled(Reactions(), after=0.45) == "kept"
    assert settled(Reactions(), after=0.32) == "withdrawn"
    assert settled(Reactions(), after=0.2) == "withdrawn"


def test_where_nothing_was_lost_there_is_nothing_to_win() -> None:
    assert settled(Reactions(), usual=0.5, at=0.499, after=0.51) == "withdrawn"


def test_learning_faster_raises_rates_for_a_bounded_time() -> None:
    reaction = Reactions().decide(change(), 0.3, BEGIN_MS)
    assert reaction is not None
    assert reaction.rate_scale > 1
    assert reaction.events > 0
    assert 0 < reaction.replay_share < 1


@pytest.mark.parametrize("quiet", [{"reaction": "only_tell"}, {"state": "ongoing"}, {"state": "resolved"}])
def test_nothing_is_done_where_a_watch_only_tells_or_an_episode_does_not_begin(quiet: dict[str, Any]) -> None:
    assert Reactions().decide(change(**quiet), 0.3, BEGIN_MS) is None


def test_a_switch_makes_everything_only_tell() -> None:
    assert Reactions(only_tell=True).decide(change(), 0.3, BEGIN_MS) is None


def test_the_same_is_done_again_only_after_a_pause_and_later_where_it_was_withdrawn() -> None:
    kept, withdrawn = Reactions(), Reactions()
    settled(kept)
    settled(withdrawn, after=0.3)
    begun_ms = BEGIN_MS + 10 * MINUTE_MS
    for reactions, pause_ms in ((kept, kept.cool_down_ms), (withdrawn, 4 * withdrawn.cool_down_ms)):
        assert reactions.decide(change("e-2"), 0.3, begun_ms + pause_ms - 1) is None
        assert reactions.decide(change("e-2"), 0.3, begun_ms + pause_ms) is not None


def test_no_more_than_so_many_are_begun_in_an_hour() -> None:
    reactions = Reactions(most_an_hour=3, cool_down_ms=0, settle_ms=0)
    begun = [reactions.decide(change(f"e-{number}"), 0.3, BEGIN_MS + number * MINUTE_MS) for number in range(10)]
    assert sum(one is not None for one in begun) == 3
    assert reactions.decide(change("later"), 0.3, BEGIN_MS + HOUR_MS + MINUTE_MS) is not None


def test_a_known_episode_does_not_get_what_did_not_help_it_before() -> None:
    helped, did_not = Reactions(cool_down_ms=0), Reactions(cool_down_ms=0)
    settled(helped)
    settled(did_not, after=0.3)
    again_ms = BEGIN_MS + 5 * HOUR_MS
    assert helped.decide(change("e-2", known_episode="e-1"), 0.3, again_ms) is not None
    assert did_not.decide(change("e-2", known_episode="e-1"), 0.3, again_ms) is None
    assert did_not.decide(change("e-3"), 0.3, again_ms) is not None


def test_what_is_remembered_goes_through_json() -> None:
    reactions, twin = Reactions(), Reactions()
    settled(reactions)
    twin.restore(json.loads(json.dumps(reactions.saved())))
    assert twin.of("e-1") == reactions.of("e-1")
    assert twin.saved() == reactions.saved()
    assert twin.decide(change("e-2"), 0.3, BEGIN_MS + 11 * MINUTE_MS) is None, "the pause goes on"
    Reactions().restore({})


def test_where_quality_collapses_the_memories_are_cut_once() -> None:
    reactions = Reactions()
    for minute in range(10):
        reactions.measure(0.5, BEGIN_MS + minute * MINUTE_MS)
    begun_ms = BEGIN_MS + 10 * MINUTE_MS
    begun = reactions.decide(change(), 0.48, begun_ms)
    assert begun is not None
    assert 0 < begun.memory_keep < 1
    assert not begun.memory_cut
    assert reactions.deepen(0.42, begun_ms + 1000) == [], "most shoppers are as they were"
    [deeper] = reactions.deepen(0.2, begun_ms + 2000)
    assert deeper.memory_cut
    assert deeper.episode_id == "e-1"
    twin = Reactions()
    twin.restore(json.loads(json.dumps(reactions.saved())))
    assert twin.deepen(0.2, begun_ms + 3000) == []


def test_without_a_reaction_nothing_is_deepened() -> None:
    reactions = Reactions(only_tell=True)
    reactions.measure(0.5, BEGIN_MS)
    assert reactions.decide(change(), 0.1, BEGIN_MS + HOUR_MS) is None
    assert reactions.deepen(0.1, BEGIN_MS + HOUR_MS) == []
