"""A tracker's side for agents that know NATS alone: publish to the stream, ask the daemons."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_type_hints
from uuid import UUID

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import Header
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from tracker_daemon.choices import ENDPOINTS
from tracker_daemon.errors import InvalidPayload, InvalidQuestion, TrackerError, Unavailable
from tracker_daemon.queries import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from tracker_daemon.client.side import Asked
    from tracker_daemon.messages import Message

CONNECT_SECONDS: Final = 5.0
RECONNECT_WAIT_SECONDS: Final = 1
ACK_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""Longer than a daemon, unless told otherwise, lets a question wait and take."""
CLOSE_SECONDS: Final = 2.0
HEADER_BYTES: Final = len(f"NATS/1.0\r\n{Header.MSG_ID.value}: {UUID(int=0)}\r\n\r\n")

T = TypeVar("T")

_ASKED: Final[dict[type, tuple[str, Any]]] = {
    kind: (name, get_type_hints(kind.answer, localns={"Connection": Any})["return"])
    for name, kind in ENDPOINTS.items()
}


class OverNats:
    """Publishes until the stream acknowledges, and asks by request and reply."""

    def __init__(self, servers: Sequence[str] | Client, subjects: Mapping[str, str], questions: str) -> None:
        """Connect when there is need, or use a client that stays its owner's.

        `subjects`: those of the installation by those of the contract. `questions`: what stands before the
        name of a question.
        """
        self._servers = [] if isinstance(servers, Client) else list(servers)
        self._client = servers if isinstance(servers, Client) else None
        self._subjects = subjects
        self._questions = questions
        self._connecting: asyncio.Task[None] | None = None
        self._reason: str | None = None

    async def send(self, messages: Sequence[Message]) -> list[TrackerError | None]:
        """Publish side by side; each is safe once the stream has acknowledged it."""
        client = await self._connected()
        jetstream = client.jetstream(timeout=ACK_SECONDS)
        return await asyncio.gather(
            *(self._publish(jetstream, client.max_payload, message) for message in messages)
        )

    async def ask(self, question: Asked[T]) -> T:
        """Ask whichever daemon takes it."""
        name, kind = _ASKED[type(question)]
        client, subject = await self._connected(), f"{self._questions}.{name}"
        try:
            reply = await client.request(subject, as_json(question), ANSWER_SECONDS)
        except nats.errors.NoRespondersError:
            raise Unavailable(
                f"no daemon answers {subject}: is one running, and lets itself be asked?"
            ) from None
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"no answer to {subject}: {self._words(error)}") from error
        return cast("T", _answer(reply, kind))

    async def close(self) -> None:
        """Close the connection, unless it is the owner's."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._servers and self._client is not None:
            await _close(self._client)

    async def _publish(self, jetstream: JetStreamContext, most: int, message: Message) -> TrackerError | None:
        subject = self._subjects[message.subject]
        # The stream knows a message that was stored, but whose ack got lost, by this id.
        headers = {Header.MSG_ID.value: str(message.identity)}
        # nats-py counts the payload alone; the server the header too, and it would hang up each time.
        if len(message.payload) + HEADER_BYTES > most:
            return _too_large(message, f"with their header more than {most}")
        try:
            await jetstream.publish(subject, message.payload, headers=headers)
        except nats.js.errors.NoStreamResponseError:
            return Unavailable(f"no stream takes {subject}: start a daemon, which makes it")
        except nats.js.errors.BadRequestError as error:
            return _too_large(message, str(error))
        except (nats.errors.Error, OSError) as error:
            return Unavailable(f"{subject} is not acknowledged: {self._words(error)}")
        return None

    async def _connected(self) -> Client:
        if self._servers and (self._client is None or self._client.is_closed):
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(_looked_at)
            # Somebody who waits for a moment only must not be why it never is connected.
            await asyncio.shield(self._connecting)
        client = cast("Client", self._client)
        if not client.is_connected:
            raise Unavailable(f"NATS is away: {self._reason or 'the client that was given is not connected'}")
        return client

    async def _connect(self) -> None:
        client = Client()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.connect(
                    self._servers,
                    name="tracker-client",
                    error_cb=self._note,
                    reconnected_cb=self._forget,
                    reconnect_time_wait=RECONNECT_WAIT_SECONDS,
                    max_reconnect_attempts=-1,
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            where = ", ".join(server.rpartition("@")[2] for server in self._servers)
            raise Unavailable(f"NATS at {where} is out of reach: {self._words(error)}") from error
        finally:
            if not client.is_connected:
                await _close(client)
        self._client = client
        await self._forget()

    async def _note(self, error: Exception) -> None:
        self._reason = str(error) or type(error).__name__

    async def _forget(self) -> None:
        self._reason = None

    def _words(self, error: Exception) -> str:
        """What the connection last said, a refusal of the server above all, tells more than silence."""
        silent = isinstance(error, TimeoutError)
        return self._reason or ("no answer in time" if silent else str(error) or type(error).__name__)


def _too_large(message: Message, words: str) -> InvalidPayload:
    return InvalidPayload("too_large", None, f"{len(message.payload)} bytes, NATS refuses them: {words}")


def _looked_at(task: asyncio.Task[None]) -> None:
    """Take note of what it failed with: nobody may wait for it any more."""
    if not task.cancelled():
        task.exception()


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError):
        return


def _answer(reply: Msg, kind: Any) -> Any:
    headers = reply.headers or {}
    code, words = headers.get(ERROR_CODE_HEADER), headers.get(ERROR_HEADER)
    match code:
        case None:
            try:
                return msgspec.json.decode(reply.data, type=kind)
            except msgspec.MsgspecError as error:
                raise Unavailable(f"the answer is of another version than this client: {error}") from error
        case "404":
            return None
        case "400" | "413":
            raise InvalidQuestion(str(words))
        case _:
            raise Unavailable(f"the daemon cannot answer ({code}): {words}")
