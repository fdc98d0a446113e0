"""A Faust transport that takes records in heaps.

Faust fetches whenever a record is there, and starts four asyncio tasks for each record, so that a rebalance can break off a delivery
that waits for room. At a thousand events a second both cost more than the agents' own work. Here a fetch waits until some have
gathered, and a record is handed over at once. That holds only for agents that never wait: with one that does, a rebalance would have
to wait too.
"""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, cast

from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka
from faust.types import TP
from mode.services import WaitResults

GATHER_S = 0.02


class GatheringConsumer(aiokafka.Consumer):
    """Fetches at most every `GATHER_S`, and hands a record over without a task of its own."""

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        await asyncio.sleep(GATHER_S)
        return await super()._getmany(active_partitions, timeout)

    async def wait_first(self, *waits: Any, timeout: Any = None) -> WaitResults:
        """Await a record's delivery alone; Faust gives it first, and then the wait for a pause that might break it off."""
        delivery, pause = cast(tuple[Awaitable[None], Coroutine[Any, Any, None]], waits)
        pause.close()
        await delivery
        return WaitResults([delivery], [None], False)


class GatheringTransport(aiokafka.Transport):
    """Kafka by aiokafka, in heaps."""

    Consumer = GatheringConsumer
