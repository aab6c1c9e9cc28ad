"""The service `llm-tracker` of NATS' micro protocol: an endpoint a question, `$SRV` to find it by."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog
from nats.micro.request import ServiceError
from nats.micro.service import Service, ServiceConfig

from tracker_daemon import __version__, metrics
from tracker_daemon.choices import CHOICES, ENDPOINTS
from tracker_daemon.choices.memory import Memory, Stale
from tracker_daemon.embeddings import ProviderFailed, TextEmbedder
from tracker_daemon.errors import InvalidQuestion, Unavailable
from tracker_daemon.experiments import Illegible
from tracker_daemon.queries import (
    QUESTIONS,
    Busy,
    Prompts,
    Reader,
    answer_schema,
    as_json,
    matured,
    parse,
    question_schema,
)
from tracker_daemon.service.reply import TooLarge, reply
from tracker_daemon.service.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.micro.request import Request

    from tracker_daemon.choices import Assign, Select
    from tracker_daemon.config import QuerySettings
    from tracker_daemon.consumer import Client
    from tracker_daemon.queries import Question

    Answering = Callable[[Any], Awaitable[bytes | None]]
    """How the questions of an endpoint are answered, as JSON; None: there is no answer."""

log = structlog.get_logger(__name__)

NAME: Final = "llm-tracker"
"""What the service is found by."""
CODES: Final = ("200", "400", "404", "413", "500", "503")
"""What a question is counted under: 200, or the code of an error."""
_CODE_OF: Final[dict[type[Exception], str]] = {
    InvalidQuestion: "400",
    TooLarge: "413",
    Busy: "503",
    ProviderFailed: "503",
    Stale: "503",
    Illegible: "503",
}
MAX_QUESTION_BYTES: Final = 64 << 10
"""Far more than a filter with its cursor takes."""
FRAME_BYTES: Final = 4096
"""What stands around the schemas of all endpoints where the service tells of itself."""
MAX_WORDS: Final = 500
"""Characters of an error, which travels in a header."""


class QueryService:
    """Answers what is asked over NATS, beside other daemons that do, until it is cancelled."""

    def __init__(
        self,
        client: Client,
        settings: QuerySettings,
        texts: TextEmbedder,
        dsn: str,
        *,
        statement_cache: bool,
    ) -> None:
        """`texts`: that are asked about, closed in the end; `dsn`: where to ask if `settings` have none.

        `statement_cache` is about that `dsn`; before another one may stand what keeps no statements.
        """
        self._client = client
        self._settings = settings
        own = settings.dsn
        self._reader = partial(
            Reader,
            own.get_secret_value() if own else dsn,
            seconds=settings.timeout_seconds,
            statement_cache=statement_cache and own is None,
        )
        self._texts = texts
        self._tasks = Tasks(client)
        self._readers: tuple[Reader, ...] = ()
        self._trouble: str | None = None
        self._room = 0
        for name in ENDPOINTS:
            metrics.query_seconds.labels(name)
            for code in CODES:
                metrics.queries.labels(name, code)

    async def run(self) -> None:
        """Answer until cancelled."""
        self._room = self._client.max_payload - FRAME_BYTES
        config = ServiceConfig(NAME, __version__, "What was decided, and what came of it")
        service = Service(cast("Client", self._tasks), config)
        asking, recalling = self._reader(self._settings.connections), self._reader(1)
        async with asking, recalling:
            self._readers = (asking, recalling)
            memory = Memory(recalling.connection)
            try:
                await service.start()
                for name in QUESTIONS:
                    await self._add(service, name, partial(self._asked, asking))
                for name in CHOICES:
                    await self._add(service, name, partial(_chosen, memory))
                await memory.run()
            finally:
                await self._tasks.stop()
                await self._texts.close()

    def abort(self) -> None:
        """End what is being asked; a server that does not answer would hold it up."""
        self._tasks.cancel()
        for reader in self._readers:
            reader.abort()

    async def _add(self, service: Service, name: str, answer: Answering) -> None:
        metadata = {}
        for about, schema in (("question", question_schema), ("answer", answer_schema)):
            metadata[about] = msgspec.json.encode(schema(name, ENDPOINTS[name])).decode()
            await asyncio.sleep(0)  # a schema takes some milliseconds
        # All of them travel in one message when somebody asks what there is: those that fit.
        size = len(msgspec.json.encode(metadata))
        if size > self._room:
            metadata, size = {}, 0
        self._room -= size
        await service.add_endpoint(
            name=name,
            subject=f"{self._settings.subject}.{name}",
            handler=partial(self._handle, name, answer),
            metadata=metadata,
        )

    async def _handle(self, name: str, answer: Answering, request: Request) -> None:
        began = time.perf_counter()
        code, said = await self._answer(name, answer, request.data)
        try:
            if isinstance(said, str):
                raise ServiceError(code, " ".join(said.split())[:MAX_WORDS])
            await request.respond(said)
        finally:
            metrics.queries.labels(name, code).inc()
            metrics.query_seconds.labels(name).observe(time.perf_counter() - began)

    async def _answer(self, name: str, answer: Answering, data: bytes) -> tuple[str, bytes | str]:
        """The code, and the answer, or a sentence that says why there is none."""
        try:
            said = await answer(self._question(name, data))
        except asyncio.CancelledError:
            return "503", "this daemon stops: ask again"
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker hears that there is no answer
            return self._refusal(name, error)
        return ("200", said) if said else ("404", "the record holds no such decision")

    async def _asked(self, reader: Reader, question: Question) -> bytes | None:
        if isinstance(question, Prompts):
            question = await question.embedded(self._texts.embed)
        async with reader.connection() as connection:
            answer = await reply(question, connection, self._client.max_payload)
        self._say(None)
        return answer

    def _refusal(self, name: str, error: Exception) -> tuple[str, str]:
        if code := _CODE_OF.get(type(error)):
            return code, str(error)
        if isinstance(error, Unavailable):
            self._say(str(error))
            return "503", "the database does not answer questions now: ask again later"
        log.error("a question met a defect", endpoint=name, exc_info=error)
        return "500", "a defect of the service: the daemon's log says more"

    def _question(self, name: str, data: bytes) -> Any:
        if len(data) > MAX_QUESTION_BYTES:
            raise InvalidQuestion(f"a question has at most {MAX_QUESTION_BYTES} bytes, not {len(data)}")
        return matured(parse(data, ENDPOINTS[name]), self._settings.maturity_seconds)

    def _say(self, trouble: str | None) -> None:
        """Log what keeps questions from being answered, once, and its end."""
        if trouble and trouble != self._trouble:
            log.warning("questions cannot be answered", reason=trouble)
        elif self._trouble and not trouble:
            log.info("questions are answered again")
        self._trouble = trouble


async def _chosen(memory: Memory, question: Assign | Select) -> bytes:
    return as_json(question.among(memory.known()))
