"""The provider `openai`: whatever answers `POST …/embeddings` as OpenAI does."""

from __future__ import annotations

import asyncio
import re
from array import array
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from msgspec import Struct

from tracker_daemon.embeddings.provider import FLOAT32, Embedding, ProviderFailed, TextRefused, checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.config import EmbeddingSettings

RETRY_AFTER_CAP_SECONDS: Final = 60.0
"""However long a provider wants to be left alone, so often it is asked."""
NUMBER_BYTES: Final = 32
"""A number of an answer takes fewer, white space included."""
REST_BYTES: Final = 1 << 20
"""And all the rest of it."""

# They may be about the texts; of the others, none is.
_ABOUT_TEXTS: Final = {400, 413, 422}
_FAILING: Final = {408, 425}


class _Item(Struct):
    index: int
    embedding: list[float]


class _Answer(Struct):
    data: list[_Item]


class _Fault(Struct):
    code: str | int | None = None
    type: str | None = None


class _Refusal(Struct):
    error: _Fault


class OpenAI:
    """Asks over HTTP; a key goes with each request and nowhere else."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        """Keep where to ask; the first batch connects."""
        self.model: Final = settings.model or ""
        self.dimensions: Final = settings.dimensions
        self._url = f"{settings.url.rstrip('/')}/embeddings"
        self._key = settings.key
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout_seconds)
        self._pause_seconds = 60 / settings.requests_per_minute if settings.requests_per_minute else 0.0
        self._free_at = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return a vector for each text, once the limit of requests allows."""
        await self._pace()
        request = msgspec.json.encode({"model": self.model, "input": texts})
        limit = len(texts) * self.dimensions * NUMBER_BYTES + REST_BYTES
        response, body = await self._post(request, limit)
        if response.status != 200:
            raise self._refusal(response, body)
        return checked(self._vectors(body), len(texts), self.dimensions)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, request: bytes, limit: int) -> tuple[aiohttp.ClientResponse, bytes]:
        try:
            # Not to where a redirection leads: it would be shown the key, and the prompts.
            async with self._opened().post(self._url, data=request, allow_redirects=False) as response:
                return response, await _read(response, limit)
        except TimeoutError as error:
            reason = (
                f"{self._url} has not answered within {self._timeout.total:g} s: lower "
                "TRACKER_EMBEDDING_BATCH_TEXTS, or raise TRACKER_EMBEDDING_TIMEOUT_SECONDS"
            )
            raise ProviderFailed("unreachable", reason) from error
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            # Their own words quote what was answered, and that may quote a prompt.
            reason = f"{self._url} answers what is no HTTP, or not all of it ({type(error).__name__})"
            raise ProviderFailed("garbage", reason) from error
        except (aiohttp.ClientError, OSError, UnicodeError) as error:  # the last: no host can be called so
            words = str(error) if isinstance(error, OSError | UnicodeError) else ""
            reason = f"{self._url} cannot be reached: {words or type(error).__name__}"
            raise ProviderFailed("unreachable", reason) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
            self._session = aiohttp.ClientSession(headers=headers, timeout=self._timeout)
        return self._session

    async def _pace(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._free_at - clock())
        self._free_at = clock() + self._pause_seconds

    def _vectors(self, body: bytes) -> list[Embedding]:
        try:
            items = msgspec.json.decode(body, type=_Answer).data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProviderFailed("garbage", f"{self._url} answers what is no list of embeddings") from error
        items.sort(key=lambda item: item.index)
        if [item.index for item in items] != list(range(len(items))):
            raise ProviderFailed("garbage", f"{self._url} answers with indexes that do not count from 0 on")
        return [array(FLOAT32, item.embedding) for item in items]

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> ProviderFailed | TextRefused:
        """What an answer other than 200 means; its message is not quoted, for it may quote a prompt."""
        status = response.status
        words = f"{self._url} answers {status}{_code(body)}"
        after = _seconds(response.headers.get("Retry-After", ""))
        if status in _ABOUT_TEXTS:
            return TextRefused(words)
        if status == 429:
            why = "too many requests (see TRACKER_EMBEDDING_REQUESTS_PER_MINUTE), or no quota is left"
            return ProviderFailed("busy", f"{words}: {why}", after)
        if status >= 500 or status in _FAILING:
            return ProviderFailed("failing", words, after)
        settings = "TRACKER_EMBEDDING_URL, TRACKER_EMBEDDING_MODEL and TRACKER_EMBEDDING_KEY"
        return ProviderFailed("refused", f"{words}: look at {settings}")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise ProviderFailed("garbage", f"{response.url} answers with more than {limit:,} bytes")
    return bytes(body)


def _code(body: bytes) -> str:
    """The word that a refusal gives as its code or type, in brackets; nothing where there is none."""
    try:
        fault = msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    word = str(fault.code or fault.type or "")
    return f" ({word})" if re.fullmatch(r"[a-z_]{1,40}", word) else ""


def _seconds(retry_after: str) -> float:
    """The header in seconds; 0 where it is missing or is neither a number nor a date."""
    try:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", retry_after):
            seconds = float(retry_after)
        else:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_CAP_SECONDS)
