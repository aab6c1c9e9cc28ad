"""nats-py and asyncpg with nothing between them: what no daemon that is built on both can surpass."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import nats
from nats.js.api import AckPolicy, ConsumerConfig

from tests.bench.contestants import COPY_ROWS, connect
from tests.bench.cpu import used
from tests.bench.stage import STREAM
from tests.bench.tables import SHIPPED
from tests.bench.yardstick import Drained, drained
from tracker_daemon.consumer.connection import publish_to_all

if TYPE_CHECKING:
    import asyncpg
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from tests.bench.stage import Stage

DURABLE: Final = "libraries"
CREDIT: Final = 2 * COPY_ROWS  # what is being copied, and as much on its way


class Libraries:
    """Receive, COPY a ready-made row for each message, acknowledge after the commit; look at nothing."""

    name = "nats-py and asyncpg alone"
    table = SHIPPED.name

    async def run(self, stage: Stage, messages: list[bytes]) -> Drained:
        """Drain a stream that is filled with the messages; making tuples of them is not timed."""
        rows = [SHIPPED.row(message) for message in messages]
        count = await stage.fill(messages)
        gc.collect()
        gc.freeze()
        try:
            async with contextlib.AsyncExitStack() as opened:
                connection = await connect(stage, opened)
                client = await nats.connect(stage.nats.url)
                opened.push_async_callback(client.close)
                await client.jetstream().add_consumer(
                    STREAM,
                    ConsumerConfig(
                        DURABLE,
                        ack_policy=AckPolicy.EXPLICIT,
                        max_ack_pending=CREDIT,
                    ),
                )
                await stage.settle()
                flow = asyncio.create_task(_flow(client, connection, rows))

                def alive() -> None:
                    if flow.done():
                        flow.result()

                return await drained(stage, DURABLE, count, lambda: used(os.getpid()), alive)
        finally:
            gc.unfreeze()


async def _flow(client: Client, connection: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> None:
    """COPY 1,000 rows while the next messages come in; acknowledge them in one write."""
    replies = deque[str]()
    enough = asyncio.Event()
    wanted = COPY_ROWS

    async def take(message: Msg) -> None:
        replies.append(message.reply)
        if len(replies) >= wanted:
            enough.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    request = json.dumps({"batch": len(rows)}).encode()
    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}", request, reply=inbox)
    for start in range(0, len(rows), COPY_ROWS):
        batch = rows[start : start + COPY_ROWS]
        wanted = len(batch)
        while len(replies) < wanted:
            enough.clear()
            await enough.wait()
        await connection.copy_records_to_table(SHIPPED.name, records=batch, columns=SHIPPED.columns)
        await publish_to_all(client, [replies.popleft() for _ in batch])
