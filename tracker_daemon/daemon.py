"""The one place where the parts meet: consumer, decoder, batch writer and store, from start to drain."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, get_args

import structlog
import tenacity

from tracker_daemon import __version__, metrics
from tracker_daemon.batch import BatchWriter, Trigger
from tracker_daemon.consumer import CoreConsumer, JetStreamConsumer, connect, disconnect, publish_surely
from tracker_daemon.contract import contract_of
from tracker_daemon.embeddings import EmbeddingIndex, Kind, PromptEmbeddings, TextEmbedder, provider_of
from tracker_daemon.errors import InvalidPayload, Unavailable
from tracker_daemon.health import Obstacles, serving
from tracker_daemon.messages import REASONS, Delivery, Message, Result, contract_field, decode
from tracker_daemon.migrate import check_schema, migrate
from tracker_daemon.postgres import check_statements
from tracker_daemon.retention import Retention
from tracker_daemon.scores import ScoreWatch
from tracker_daemon.selection import Ruling
from tracker_daemon.selection.referee import Referee
from tracker_daemon.service import QueryService
from tracker_daemon.signals import Stop, heard
from tracker_daemon.situations.index import SituationIndex
from tracker_daemon.situations.learning import ScaleLearning
from tracker_daemon.store import OUTCOMES, Drift, Poll, Store
from tracker_daemon.systemd import supervised
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from tracker_daemon.chore import Chore
    from tracker_daemon.config import Settings
    from tracker_daemon.consumer import Client, Consumer
    from tracker_daemon.messages import Record, Token

log = structlog.get_logger(__name__)

DRAINED: Final = 0
WORK_LEFT: Final = 3

STALL_SECONDS: Final = 15
"""Messages that wait for so long without any commit mean: not ready."""
RETRY_CAP_SECONDS: Final = 5


async def run(settings: Settings) -> int:
    """Run the daemon until told to stop and return its exit code: 0 drained, 1 failed, 3 work left."""
    daemon = Daemon(settings)
    _declare_series(settings)
    # What is here stays. What comes is freed by its reference count, and cycles are few: to look for them at
    # the usual rate took a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with heard(daemon.override) as stop:
        async with (
            serving(settings.http, daemon.obstacles, daemon.alive) as port,
            supervised(daemon.alive, daemon.obstacles) as stopping,
        ):
            log.info("started", version=__version__, http=f"http://{settings.http.host}:{port}")
            return await daemon.run(stop, stopping)


def _declare_series(settings: Settings) -> None:
    """Begin every series of a closed set at 0, so that a rate sees its first event."""
    metrics.known_subjects.update((settings.nats.decisions_subject, settings.nats.outcomes_subject))
    for subject in metrics.known_subjects:
        metrics.messages_received.declare(subject)
        for result in get_args(Result):
            metrics.messages_settled.labels(subject, result)
        for reason in REASONS:
            metrics.dead_letters.labels(subject, reason)
    for trigger in get_args(Trigger):
        metrics.flushes.labels(trigger)
    for kind in ("unavailable", "misconfigured"):
        metrics.writer_retries.labels(kind)
    for failure in get_args(Kind):
        metrics.embedding_failures.labels(failure)
    for ruling in get_args(Ruling):
        metrics.selection_rulings.labels(ruling)
    for table in ("llm_decisions", "llm_outcomes", "llm_dead_letters"):
        metrics.rows_committed.labels(table)


class Daemon:
    """One daemon, from its first connection to the last acknowledgement."""

    def __init__(self, settings: Settings) -> None:
        """Lay the parts out; nothing is connected yet."""
        self._settings = settings
        dsn, cache = settings.postgres.dsn.get_secret_value(), settings.postgres.statement_cache
        self._drifts = Drift(), Drift(OUTCOMES)
        writers = range(settings.postgres.writers)
        self._stores = [Store(dsn, *self._drifts, statement_cache=cache) for _ in writers]
        metrics.paused.set_function(lambda: any(store.paused for store in self._stores))
        self._poll = Poll(dsn, statement_cache=cache)
        self._beside: list[Poll | Chore | QueryService] = [
            self._poll,
            EmbeddingIndex(dsn, busy=self._busy, statement_cache=cache),
            TextIndex(dsn, busy=self._busy, statement_cache=cache),
            SituationIndex(dsn, busy=self._busy, statement_cache=cache),
            ScoreWatch(dsn, settings.alerts, self._alert, statement_cache=cache),
            ScaleLearning(dsn, statement_cache=cache),
            Referee(dsn, statement_cache=cache),
        ]
        if (provider := provider_of(settings.embedding)) is not None:
            embeddings = PromptEmbeddings(
                dsn, provider, settings.embedding, busy=self._busy, statement_cache=cache
            )
            self._beside.append(embeddings)
        if days := settings.retention.older_than_days:
            unreplayed = settings.retention.unreplayed_dead_letters
            self._beside.append(Retention(dsn, days, unreplayed=unreplayed, statement_cache=cache))
        self._batches = BatchWriter(settings.batch, [store.write for store in self._stores], self._settle)
        self._contract = contract_of(settings)
        self._client: Client | None = None
        self._consumer: Consumer | None = None
        self._failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._starting = "the database has not been looked at yet"
        self._broken = self._draining = False
        self._nats_trouble: str | None = None
        self._progress_at = asyncio.get_running_loop().time()

    async def run(self, stop: Stop, stopping: Callable[[], None]) -> int:
        """Start, work until asked to stop or a part fails, drain, and return the exit code.

        `stopping` is called when the end begins.
        """
        try:
            if not await _unless(stop.asked, self._start()):
                stopping()
                log.info("stopped before anything was consumed")
                return DRAINED
            beside = {part: asyncio.create_task(part.run()) for part in self._beside}
            writing = asyncio.create_task(self._batches.run())
            keeping = asyncio.create_task(self._keep())
            asked = asyncio.create_task(stop.asked.wait())
            ends: set[asyncio.Future[Any]] = {asked, writing, keeping, *beside.values(), self._failed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            failure = self._failed.result() if self._failed.done() else None
            self._broken, self._draining = not stop.asked.is_set(), True
            stopping()
            await _ended(asked)
            drained = await self._drain(writing, stop)
            await _ended(keeping)
            for part in beside:
                part.abort()
            await _ended(*beside.values())
        finally:
            await self._close()
        if failure is not None:
            raise failure
        return DRAINED if drained else WORK_LEFT

    def alive(self) -> bool:
        """Whether no part has died; one that has ends the daemon."""
        return not self._broken

    def obstacles(self) -> Obstacles:
        """What keeps the daemon from being ready, now."""
        if self._draining:
            return {"drain": f"stopping; messages still to be written: {self._batches.held()}"}
        if self._consumer is None:
            return {"start": ": ".join(filter(None, (self._starting, self._nats_trouble)))}
        found: Obstacles = {}
        for trouble in (self._poll.trouble, *(store.trouble for store in self._stores)):
            if trouble:
                found["postgres"] = trouble
        if not self._consumer.attached:
            found["nats"] = self._consumer.trouble or self._nats_trouble or "not connected"
        waiting = self._batches.held() or self._consumer.pending
        patience = STALL_SECONDS + self._settings.batch.flush_interval_seconds
        if waiting and asyncio.get_running_loop().time() - self._progress_at > patience:
            found["progress"] = f"messages wait and none was committed for more than {patience:g} s"
        return found

    def _busy(self) -> bool:
        """Whether more messages wait than a batch takes."""
        pending = self._consumer.pending if self._consumer is not None else None
        return self._batches.held() + (pending or 0) > self._settings.batch.max_rows

    def override(self) -> None:
        """Let through what keeps writing paused because too much of it is rejected."""
        overridden = [drift.override() for drift in self._drifts]
        if not any(overridden):
            log.info("SIGUSR1 changes nothing: writing is not paused for rejections")

    async def _start(self) -> None:
        await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=RETRY_CAP_SECONDS),
            before_sleep=self._database_away,
        )(self._prepare_database)
        settings = self._settings.nats
        addresses = ", ".join(server.rpartition("@")[2] for server in settings.servers)
        self._starting = f"NATS at {addresses} has not been reached yet"
        self._client = await connect(settings, self._fail, self._nats_away)
        kind = JetStreamConsumer if settings.mode == "jetstream" else CoreConsumer
        consumer = kind(self._client, settings, self._receive, self._batches.room, self._fail)
        await consumer.start()
        self._consumer = consumer
        if self._settings.query.enabled:
            query, postgres = self._settings.query, self._settings.postgres
            redactor = self._settings.redact.redactor
            texts = TextEmbedder(self._settings.embedding, query.timeout_seconds, redactor)
            dsn, cache = postgres.dsn.get_secret_value(), postgres.statement_cache
            self._beside.append(QueryService(self._client, query, texts, dsn, statement_cache=cache))

    async def _prepare_database(self) -> None:
        postgres, dimensions = self._settings.postgres, self._settings.embedding.dimensions
        dsn = (postgres.migrate_dsn or postgres.dsn).get_secret_value()
        await (migrate if self._settings.migrate.on_start else check_schema)(dsn, dimensions)
        if postgres.statement_cache:
            await check_statements(postgres.dsn.get_secret_value())
        for store in self._stores:
            await store.open()

    def _database_away(self, retry: tenacity.RetryCallState) -> None:
        self._starting = str(retry.outcome and retry.outcome.exception())
        log.warning("the database is not ready, trying again", reason=self._starting)

    def _nats_away(self, reason: str | None) -> None:
        """Keep why NATS is out of reach; None: it is not."""
        self._nats_trouble = reason

    def _fail(self, error: Exception) -> None:
        """End the daemon: better started anew by its supervisor than alive without a part."""
        if not self._failed.done():
            self._failed.set_result(error)

    def _receive(self, message: Message, token: Token | None) -> None:
        """Decode a message and put it into the buffer, as what it is or as what is wrong with it."""
        record: Record
        try:
            record = decode(message, self._contract)
        except InvalidPayload as error:
            record = error.alone()
            log.warning(
                "invalid payload",
                subject=message.subject,
                stream_sequence=message.sequence,
                reason=error.reason,
                field=contract_field(error),
            )
        if not self._batches.held():
            self._progress_at = asyncio.get_running_loop().time()
        self._batches.add(Delivery(message, record, token))

    async def _settle(self, batch: Sequence[Delivery], results: Sequence[Result]) -> None:
        """Acknowledge what is committed, and let the consumer ask for more."""
        if any(result != "released" for result in results):
            self._progress_at = asyncio.get_running_loop().time()
        settled = Counter((d.message.subject, result) for d, result in zip(batch, results, strict=True))
        for (subject, result), count in settled.items():
            metrics.messages_settled.labels(metrics.subject_label(subject), result).inc(count)
        if self._consumer is not None:
            committed = zip(batch, results, strict=True)
            await self._consumer.ack(
                delivery.token for delivery, result in committed if delivery.token and result != "released"
            )
            await self._consumer.resume()

    async def _alert(self, payload: bytes) -> None:
        if self._client is None:
            raise Unavailable("NATS has not been reached yet")
        await publish_surely(self._client, self._settings.alerts.subject, payload)

    async def _keep(self) -> None:
        """Keep the stream from delivering again what is held: an outage may outlast any ack wait."""
        while self._consumer is not None:
            await asyncio.sleep(self._consumer.ack_wait_seconds / 3)
            held = self._batches.unsettled()
            await self._consumer.in_progress(delivery.token for delivery in held if delivery.token)

    async def _drain(self, writing: asyncio.Task[None], stop: Stop) -> bool:
        """Stop consuming and write what is held until the deadline; return whether all of it was written."""
        log.info("draining", messages=self._batches.held())
        finishing = asyncio.create_task(self._finish(writing))
        hurried = asyncio.create_task(stop.hurried.wait())
        await asyncio.wait(
            {finishing, hurried},
            timeout=self._settings.shutdown.timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not finishing.done():
            log.warning("not everything could be written in time")
            for store in self._stores:
                store.abort()
            # First: `wait_for` of Python 3.11, in nats-py's flush, may lose the cancellation of `finishing`.
            writing.cancel()
        for task in (hurried, finishing):
            await _ended(task)
        try:
            await _ended(writing)
        finally:
            left = self._batches.unsettled()
            for delivery in left:
                subject = metrics.subject_label(delivery.message.subject)
                metrics.messages_settled.labels(subject, "released").inc()
            log.info("stopped", left_to_the_stream=len(left))
        return not left

    async def _finish(self, writing: asyncio.Task[None]) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
        self._batches.close()
        await asyncio.wait({writing})

    async def _close(self) -> None:
        if self._client is not None:
            await disconnect(self._client)
        for store in self._stores:
            await store.close()


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks before they have another turn, wait for their end, and raise what one of them failed with.

    A turn between the cut of a connection and the cancellation would make an outage of the cut.
    """
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless the event comes first; return whether it was done."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    done = working.done()
    await _ended(waiting)
    await _ended(working)
    return done
