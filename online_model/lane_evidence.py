"""Whether lists on trial do worse than stable ones: tests that may be looked at again and again, as outcomes come in.

Under no difference, the difference of two means times its information is a Brownian motion at the time that the information counts
(Jennison and Turnbull, "Group Sequential Methods", 2000, section 3.5). Against such a one a normal mixture over how much worse the
trial might be is a supermartingale, which ever exceeds 1/alpha with a probability of at most alpha (Robbins, 1970; Howard, Ramdas,
McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021, proposition 6; for shares as here Johari,
Koomen, Pekelis and Walsh, "Always valid inference", 2022). Variances are reckoned with an outcome or two more than were seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.schemas import VersionOutcome

# How much worse a bad version may be: the scale of the half-normal that the mixture is over.
HITS_EFFECT, RANKS_EFFECT, CLICKS_EFFECT = 0.1, 0.1, 0.02
# What each test is allowed of the chance that a good trial is called bad.
HITS_ALLOWED, RANKS_ALLOWED, CLICKS_ALLOWED = 0.5, 0.25, 0.25
FEWEST_CLICKS = 20


@dataclass
class Counted:
    """Lists that met a next step, those of them that held its item and at which place, and the events that name a list."""

    answered: int = 0
    hits: int = 0
    clicks: int = 0
    reciprocal_ranks: float = 0.0
    squared_ranks: float = 0.0

    def add(self, seen: VersionOutcome) -> None:
        """Count more of them."""
        self.answered += seen.answered
        self.hits += seen.hits
        self.clicks += seen.clicks
        self.reciprocal_ranks += seen.reciprocal_ranks
        self.squared_ranks += seen.squared_ranks

    @property
    def share(self) -> float:
        """The share of hits; 0 where there are no lists."""
        return self.hits / self.answered if self.answered else 0.0

    @property
    def variance(self) -> float:
        """The variance of the share, reckoned with one hit and one miss more."""
        cautious = (self.hits + 1) / (self.answered + 2)
        return cautious * (1 - cautious) / max(1, self.answered)

    @property
    def rank(self) -> float:
        """The mean of 1/place over all lists, 0 for a miss."""
        return self.reciprocal_ranks / self.answered if self.answered else 0.0

    @property
    def variance_of_rank(self) -> float:
        """The variance of that mean, reckoned with one item in the first place more."""
        return ((self.squared_ranks + 1) / (self.answered + 1) - self.rank**2 / (1 + 1 / max(1, self.answered))) / max(1, self.answered)

    @property
    def clicks_per_list(self) -> float:
        """Clicks for each list that met a next step."""
        return self.clicks / self.answered if self.answered else 0.0

    def figures(self) -> dict[str, float]:
        """Return what a decision tells of it."""
        told = {"answered": float(self.answered), "hit_rate": self.share, "mean_reciprocal_rank": self.rank}
        return told | {"clicks": float(self.clicks)}


@dataclass(frozen=True)
class Finding:
    """Of `what` both lanes reach, and the logarithm of the evidence that the trial reaches less.

    It is significant at alpha above log(1/alpha), at any time; of the alpha of all findings together it is `allowed` this part.
    """

    what: str
    stable: float
    trial: float
    evidence: float
    allowed: float


@dataclass
class LanePair:
    """What was counted of both lanes since `since_ms`."""

    since_ms: int
    stable: Counted = field(default_factory=Counted)
    trial: Counted = field(default_factory=Counted)

    @property
    def deficit(self) -> float:
        """How far the trial's share of hits lies below the stable one's."""
        return self.stable.share - self.trial.share

    @property
    def standard_error(self) -> float:
        """The standard error of the deficit."""
        return math.sqrt(self.stable.variance + self.trial.variance)

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to be said of hits, places and clicks; of those that were not reported, nothing."""
        stable, trial = self.stable, self.trial
        found = evidence(self.deficit, stable.variance + trial.variance, HITS_EFFECT)
        yield Finding("hits", stable.share, trial.share, found, HITS_ALLOWED)
        if stable.squared_ranks and trial.squared_ranks:
            found = evidence(stable.rank - trial.rank, stable.variance_of_rank + trial.variance_of_rank, RANKS_EFFECT)
            yield Finding("mean of 1/place", stable.rank, trial.rank, found, RANKS_ALLOWED)
        if stable.clicks + trial.clicks >= FEWEST_CLICKS and stable.answered and trial.answered:
            # As of Poisson counts: an event may name a list that another names too.
            variance = sum((lane.clicks + 1) / lane.answered**2 for lane in (stable, trial))
            found = evidence(stable.clicks_per_list - trial.clicks_per_list, variance, CLICKS_EFFECT)
            yield Finding("clicks", stable.clicks_per_list, trial.clicks_per_list, found, CLICKS_ALLOWED)


def evidence(deficit: float, variance: float, effect: float) -> float:
    """Return the logarithm of the mixture, over a half-normal of scale `effect`, of the likelihood that the trial is worse."""
    scale = 1.0 + effect**2 / variance
    z = effect * (deficit / variance) / math.sqrt(scale)
    return math.log(2.0) - 0.5 * math.log(scale) + 0.5 * z * z + _log_normal_below(z)


def _log_normal_below(z: float) -> float:
    """Return the logarithm of the standard normal distribution function."""
    if z > -30.0:
        return math.log(max(0.5 * math.erfc(-z / math.sqrt(2.0)), 1e-300))
    # Far down the erfc is 0; its leading term will do.
    return -0.5 * z * z - math.log(-z * math.sqrt(2.0 * math.pi))
