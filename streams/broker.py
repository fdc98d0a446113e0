"""Is the broker there? Asked once at the start, so that a wrong address is told plainly and soon."""

import logging
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

# A command that cannot work says so within ten seconds of its start, on slow machines too.
PATIENCE_S = 6.0


class BrokerUnreachable(ConnectionError):
    """No Kafka broker has answered at the address."""

    def __init__(self, bootstrap: str, timeout_s: float, reason: str) -> None:
        super().__init__(
            f"no Kafka broker answered at {bootstrap} within {timeout_s:g} s ({reason}); start it, or set HEADRACE_KAFKA to its address"
        )
        self.bootstrap = bootstrap


class TopicMissing(LookupError):
    """The broker knows no topic of that name."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(f"topic '{topic}' does not exist at {bootstrap}; create it with: headrace topics create")
        self.topic = topic


def require_topic(bootstrap: str, topic: str, timeout_s: float = PATIENCE_S) -> None:
    """Raise TopicMissing where the cluster has no such topic, BrokerUnreachable where there is no cluster."""
    if topic not in require_broker(bootstrap, timeout_s).topics:
        raise TopicMissing(bootstrap, topic)


def require_broker(bootstrap: str, timeout_s: float = PATIENCE_S) -> ClusterMetadata:
    """Return what the cluster says of itself and its topics. Raises BrokerUnreachable."""
    # The client's own log would repeat the error on stderr each second; the exception says it once.
    quiet = logging.getLogger("headrace.kafka.probe")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    settings: dict[str, Any] = {"bootstrap.servers": bootstrap, "logger": quiet}
    admin = AdminClient(settings)
    try:
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise BrokerUnreachable(bootstrap, timeout_s, error.args[0].str()) from None
