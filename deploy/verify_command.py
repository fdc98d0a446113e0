"""`headrace features verify`: every row against the raw events, with progress and a line for each difference."""

from headrace.deploy.counting import counting
from headrace.deploy.row_commands import redis_told
from headrace.features.online_store import OnlineStore, connect
from headrace.features.shadow import open_database
from headrace.streams.broker import require_broker
from headrace.streams.feature_worker import COMPONENT
from headrace.streams.verify import VerifyReport, verify


def verify_rows(bootstrap: str, redis_url: str, number: int | None, *, limit: int, plain: bool) -> VerifyReport:
    """Verify the live store, or the shadow store in database `number`.

    Raises BrokerUnreachable, RedisUnreachable, NoSuchDatabase, and what `verify` raises.
    """
    require_broker(bootstrap)
    with redis_told(redis_url), counting("verify", plain) as show:
        store = OnlineStore(connect(redis_url)) if number is None else open_database(redis_url, number)
        return verify(
            bootstrap,
            store,
            limit=limit,
            group=COMPONENT if number is None else None,
            progress=lambda stage, done, total: show(done, max(done, total), stage),
        )


def told(report: VerifyReport) -> list[str]:
    """Return the report in lines: the differences that are shown, then what was compared and found."""
    lines = [difference.line() for difference in report.shown]
    if report.differences > len(report.shown):
        lines.append(f"... and {report.differences - len(report.shown)} more differences (--limit shows more)")
    rows = f"{report.users} users, {report.items} items, {report.sessions} sessions"
    lines.append(f"{rows} compared with {report.events} events in {report.seconds:.1f} s: {report.differences} differences")
    if report.unverifiable:
        lines.append(f"{report.unverifiable} rows could not be verified, since Kafka no longer has all events")
    return lines
