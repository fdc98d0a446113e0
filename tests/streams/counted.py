"""What metrics have counted."""

from prometheus_client import Counter


def by_reason(counter: Counter) -> dict[str, float]:
    """Return how often each reason was counted."""
    return {
        sample.labels["reason"]: sample.value for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")
    }
