"""When a version is promoted and when it is rolled back, by what became of the lists of either lane (`lane_evidence` has the tests).

Both lanes answer at the same time and shoppers are split by a hash, so what changes in the shop changes for both. Evidence begins anew
at each decision, and counts lists that were made by it alone: lists of before have waited longer for their shoppers, who come back for
something else. So that a model that has turned bad late is not shielded by how good it was before, a further test begins each
`restart_ms`; the k-th of a period is allowed 6/(pi k)^2 of half of alpha, the first all of the other half, so that together they are
allowed alpha (union bound). Nothing is concluded before either lane has `fewest` lists.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from headrace.online_model.lane_evidence import Finding, LanePair
from headrace.online_model.release_state import ReleaseState
from headrace.online_model.version_chain import VersionChain
from headrace.schemas import ModelUpdate, ReleaseOutcomes, VersionOutcome

TESTS_ALIVE = 12


@dataclass(frozen=True)
class ReleaseRules:
    """The policy's numbers.

    `alpha` is the chance, between two decisions, that a trial lane that is not worse is rolled back all the same. A version is promoted
    at most each `promote_every_ms`, once it has been on trial for `soak_ms`, lists by it or by those after it have met `lists` next
    steps, and the trial lane is not behind by more than `doubt` standard errors lately, and half as many more since the last decision.
    The trial lane gets `trial_share` of the shoppers, and after a rollback `probation_share` until the next promotion.
    """

    alpha: float = 1e-3
    fewest: int = 50
    restart_ms: int = 5_000
    promote_every_ms: int = 60_000
    soak_ms: int = 10_000
    lists: int = 500
    doubt: float = 1.64
    trial_share: float = 0.9
    probation_share: float = 0.1


@dataclass(frozen=True)
class Decision:
    """What is to be decided: the stable version from now on, why, and by what figures. A rollback withdraws up to `withdrawn_to`."""

    action: Literal["start", "promote", "rollback"]
    version: int
    sha256: str
    trial_share: float
    reason: str
    withdrawn_to: int = 0
    evidence: dict[str, float] = field(default_factory=dict)


class ReleasePolicy:
    """Sees updates, outcomes and decisions in any order, and says what to decide next. It reads no clock."""

    def __init__(self, rules: ReleaseRules | None = None) -> None:
        self.rules = rules or ReleaseRules()
        self.state = ReleaseState()
        self.newest_version = 0
        self._chain = VersionChain()
        self._decided_ms = 0
        self._tests: deque[tuple[float, LanePair]] = deque()
        self._begun = 0
        # For each version that may be promoted, when it came, and how many lists by it and later ones have met a next step.
        self._candidates: dict[int, tuple[int, int]] = {}

    def saw_update(self, update: ModelUpdate) -> None:
        """Take in a manifest. Only versions that were published whole can be promoted, so that they can always be loaded again."""
        self.newest_version = max(self.newest_version, update.version)
        self._chain.add(update)
        if update.kind == "snapshot" and update.version > self.state.stable_version:
            self._candidates.setdefault(update.version, (update.created_ms, 0))

    def saw_decision(self, state: ReleaseState) -> None:
        """Take in that a decision counts; evidence begins anew."""
        self.state = state
        self._chain.decided(state.stable_version)
        self._decided_ms = state.newest.decided_ms if state.newest else 0
        self._tests.clear()
        self._begun = 0
        self._candidates = {
            version: (since_ms, 0)
            for version, (since_ms, _) in self._candidates.items()
            if version > state.stable_version and self._stands(version)
        }

    def saw_outcomes(self, outcomes: ReleaseOutcomes) -> None:
        """Count outcomes: stable lists by the stable version, and trial lists by versions that stand and are newer."""
        if self.state.newest is None:
            return
        counted = [seen for seen in outcomes.versions if seen.sequence == self.state.newest.sequence]
        if counted:
            self._begin_test(outcomes.started_ms)
        for seen in counted:
            if seen.version == self.state.stable_version and seen.lane == "stable":
                for _, pair in self._tests:
                    pair.stable.add(seen)
            elif seen.version > self.state.stable_version and self._stands(seen.version):
                self._saw_trial(seen)

    def _saw_trial(self, seen: VersionOutcome) -> None:
        for _, pair in self._tests:
            pair.trial.add(seen)
        for version, (since_ms, answered) in self._candidates.items():
            if seen.version >= version:
                self._candidates[version] = since_ms, answered + seen.answered

    def decide(self, now_ms: int) -> Decision | None:
        """Return what to decide now; None where everything may stay as it is, or nothing but the stable version may answer."""
        if self.state.newest is None:
            return self._start()
        if self.state.newest.pinned:
            return None
        return self._rollback() or self._promotion(now_ms)

    def comparison(self) -> LanePair:
        """Return what was counted of both lanes since the last decision."""
        return self._tests[0][1] if self._tests else LanePair(self._decided_ms)

    def _start(self) -> Decision | None:
        whole = self._chain.whole
        if not whole:
            return None
        version = max(whole)
        share = self.rules.trial_share
        return Decision("start", version, whole[version], share, "the first version that was published whole is the stable one")

    def _rollback(self) -> Decision | None:
        for allowed, pair in self._tests:
            if min(pair.stable.answered, pair.trial.answered) < self.rules.fewest:
                continue
            for finding in pair.findings():
                needed = -math.log(allowed * finding.allowed)
                if finding.evidence > needed:
                    return self._withdrawal(pair, finding, needed)
        return None

    def _withdrawal(self, pair: LanePair, finding: Finding, needed: float) -> Decision:
        return Decision(
            "rollback",
            self.state.stable_version,
            self.state.stable_sha256,
            self.rules.probation_share,
            f"{finding.what}: {finding.trial:.1%} of {pair.trial.answered} lists on trial, {finding.stable:.1%} of {pair.stable.answered} "
            f"stable ones; evidence of {finding.evidence:.1f} where {needed:.1f} is significant",
            max(self.newest_version, self.state.stable_version),
            _figures(pair) | {"evidence": finding.evidence, "needed": needed},
        )

    def _promotion(self, now_ms: int) -> Decision | None:
        if now_ms - self._decided_ms < self.rules.promote_every_ms or self._is_in_doubt():
            return None
        for version in sorted(self._candidates, reverse=True):
            since_ms, answered = self._candidates[version]
            sha256 = self._chain.whole.get(version)
            soaked = now_ms - since_ms >= self.rules.soak_ms
            if soaked and answered >= self.rules.lists and sha256 is not None and self._stands(version):
                pair = self.comparison()
                reason = (
                    f"{answered} lists by it and those after it have met a next step; lists on trial were hit in {pair.trial.share:.1%} of "
                    f"{pair.trial.answered}, stable ones in {pair.stable.share:.1%} of {pair.stable.answered}"
                )
                return Decision("promote", version, sha256, self.rules.trial_share, reason, 0, _figures(pair))
        return None

    def _is_in_doubt(self) -> bool:
        """Whether the trial lane is behind by more than chance would often have it lately, or seldom since the last decision."""
        fewest = self.rules.fewest
        judged = [pair for _, pair in self._tests if min(pair.stable.answered, pair.trial.answered) >= fewest]
        allowed = ((judged[:1], 1.5 * self.rules.doubt), (judged[-1:], self.rules.doubt))
        return any(pair.deficit > doubt * pair.standard_error for pairs, doubt in allowed for pair in pairs)

    def _begin_test(self, now_ms: int) -> None:
        if self._tests and now_ms - self._tests[-1][1].since_ms < self.rules.restart_ms:
            return
        if not self._tests:
            allowed = self.rules.alpha / 2
        else:
            self._begun += 1
            allowed = self.rules.alpha / 2 * 6 / (math.pi * self._begun) ** 2
        self._tests.append((allowed, LanePair(now_ms)))
        if len(self._tests) > TESTS_ALIVE:
            # The one since the decision stays.
            del self._tests[1]

    def _stands(self, version: int) -> bool:
        return self._chain.leads_to(version, self.state)


def _figures(pair: LanePair) -> dict[str, float]:
    lanes = {"stable": pair.stable, "trial": pair.trial}
    figures = {f"{name}_{what}": value for name, lane in lanes.items() for what, value in lane.figures().items()}
    return figures | {"deficit": pair.deficit, "standard_error": pair.standard_error, "since_ms": float(pair.since_ms)}
