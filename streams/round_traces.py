"""The spans of a round of fine-tuning: one trace from each followed event to the round, and on to the weights that it made."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace.online_model.gate import Verdict
from headrace.streams import tracing
from headrace.streams.training_buffer import Example


@contextmanager
def traced_round(examples: Sequence[Example], started_ns: int, verdict: Verdict) -> Iterator[str | None]:
    """Note the round that began at `started_ns` and was just judged; within the block its weights are published.

    A span has one parent: the round lies in the trace of its first followed event, and links to those of the others; each of these
    gets a short span in its own trace, with a link to the round. Gives the `traceparent` for what follows, which stands in log lines
    too; None, and no spans, where no example is followed.
    """
    followed = [example.traceparent for example in examples if tracing.is_followed(example.traceparent)]
    if not followed:
        yield None
        return
    first, *others = [traceparent for traceparent in followed if traceparent is not None]
    about = {"headrace.examples": len(examples), "headrace.followed": len(followed)}
    now_ns = time.time_ns()
    with tracing.span("learn", first, kind="consumer", start_ns=started_ns, links=others, attributes=about) as span:
        trace = tracing.traceparent_of(span)
        for other in others[: tracing.MOST_LINKS]:
            tracing.note("learn with others", other, started_ns, now_ns, kind="consumer", links=[trace] if trace else [])
        judged = {"headrace.passed": verdict.passed, "headrace.reason": verdict.reason}
        judged_ns = int(1e6 * verdict.metrics.get("gate_ms", 0.0))
        tracing.note("gate", trace, max(started_ns, now_ns - judged_ns), now_ns, attributes=judged)
        yield trace
