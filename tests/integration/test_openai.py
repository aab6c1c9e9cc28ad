"""The provider `openai` against a real HTTP server: what it takes from an answer, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.certificates import Authority
from tests.conftest import DIMENSIONS
from tests.provider import MODEL, EmbeddingServer, answer, vector
from tracker_daemon.config import EmbeddingSettings
from tracker_daemon.embeddings import ProviderFailed, TextEmbedder, TextRefused, provider_of
from tracker_daemon.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tracker_daemon.embeddings import Provider

KEY = "sk-very-secret"


def item(index: Any, *numbers: Any) -> dict[str, Any]:
    return {"index": index, "embedding": numbers}


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    """Yield a server that answers well until it is told otherwise."""
    async with EmbeddingServer() as server:
        yield server


def asking(server: EmbeddingServer, **more: Any) -> Provider:
    """A provider for that server; whoever asks closes it."""
    settings = {"provider": "openai", "url": server.url, "model": MODEL, "dimensions": DIMENSIONS} | more
    provider = provider_of(EmbeddingSettings.model_validate(settings))
    assert provider is not None
    return provider


@pytest.fixture
async def provider(server: EmbeddingServer) -> AsyncIterator[Provider]:
    """Yield a provider for the server, with a key."""
    provider = asking(server, key=KEY)
    yield provider
    await provider.close()


async def test_vectors_come_in_the_order_of_the_texts_whatever_order_they_were_sent_in(
    server: EmbeddingServer, provider: Provider
) -> None:
    texts = [f"text {number} é 📈" for number in range(20)]
    assert [made.tolist() for made in await provider.embed(texts)] == [vector(text) for text in texts]
    assert server.asked == [texts]
    assert server.models == {provider.model} == {MODEL}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_without_a_key_none_is_sent_and_a_slash_more_in_the_url_does_not_matter(
    server: EmbeddingServer,
) -> None:
    provider = asking(server, url=f"{server.url}/")
    await provider.embed(["a"])
    await provider.close()
    assert "Authorization" not in server.headers[0]


BAD = {
    "no JSON": b"<html>Welcome</html>",
    "no UTF-8": b'{"data": "\xff"}',
    "cut off": b'{"data": [{"index": 0, "embedding": [1, 2',
    "nested too deeply": b"[" * 200_000,
    "another document": {"object": "error"},
    "no list": {"data": {"0": [1, 2, 3]}},
    "no numbers": {"data": [item(0, "1", "2", "3"), item(1, 1, 2, 3)]},
    "null": {"data": [item(0, 1, 2, None), item(1, 1, 2, 3)]},
    "NaN": b'{"data": [{"index": 0, "embedding": [1, NaN, 3]}, {"index": 1, "embedding": [1, 2, 3]}]}',
    "more than a float32 holds": {"data": [item(0, 1, 2, 1e39), item(1, 1, 2, 3)]},
    "less than a float32 holds": {"data": [item(0, 1, 2, 3), item(1, -1e39, 1e39, 3)]},
    "more than a float64 holds": b'{"data": [{"index": 0, "embedding": [1, 1e999, 3]}]}',
    "too few vectors": {"data": [item(0, 1, 2, 3)]},
    "too many vectors": {"data": [item(0, 1, 2, 3), item(1, 1, 2, 3), item(2, 1, 2, 3)]},
    "no vectors": {"data": []},
    "an index twice": {"data": [item(0, 1, 2, 3), item(0, 1, 2, 3)]},
    "indexes from 1 on": {"data": [item(1, 1, 2, 3), item(2, 1, 2, 3)]},
    "too short": {"data": [item(0, 1, 2, 3), item(1, 1, 2)]},
    "too long": {"data": [item(0, 1, 2, 3, 4), item(1, 1, 2, 3, 4)]},
    "far too much": b" " * (2 << 20)
    + b'{"data": [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, 3]}]}',
}


@pytest.mark.parametrize("name", BAD)
async def test_an_answer_that_is_not_what_was_asked_for_is_garbage(
    name: str, server: EmbeddingServer, provider: Provider
) -> None:
    """And says nothing of the texts: they may be asked for again."""
    server.handler = answer(BAD[name])
    with pytest.raises(ProviderFailed) as failed:
        await provider.embed(["a", "b"])
    assert failed.value.kind == "garbage"


async def test_a_wrong_dimension_is_named_with_its_remedy(
    server: EmbeddingServer, provider: Provider
) -> None:
    server.handler = answer({"data": [item(0, 1, 2)]})
    with pytest.raises(ProviderFailed, match=r"have 2 numbers, .+ is 3: take a model"):
        await provider.embed(["a"])


async def test_a_vector_of_zeros_refuses_its_text(server: EmbeddingServer, provider: Provider) -> None:
    server.handler = answer({"data": [item(0, 0, 0, 0)]})
    with pytest.raises(TextRefused, match="zeros"):
        await provider.embed(["a"])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "busy"), (500, "failing"), (503, "failing"), (408, "failing"), (425, "failing")]
    + [(status, "refused") for status in (201, 204, 302, 307, 401, 402, 403, 404, 405)],
)
async def test_what_is_no_200_is_a_failure_of_its_kind(
    status: int, kind: str, server: EmbeddingServer, provider: Provider
) -> None:
    elsewhere = f"{server.url}/elsewhere"
    server.handler = answer({"error": {"code": "some_code"}}, status, Location=elsewhere)
    with pytest.raises(ProviderFailed, match=f"answers {status}") as failed:
        await provider.embed(["a"])
    assert failed.value.kind == kind
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_that_may_be_about_the_texts_says_so_without_quoting_any(
    status: int, server: EmbeddingServer, provider: Provider
) -> None:
    quoting = {"error": {"message": "the input 'my prompt' is too long", "code": "context_length_exceeded"}}
    server.handler = answer(quoting, status)
    with pytest.raises(TextRefused) as refused:
        await provider.embed(["my prompt"])
    assert str(refused.value) == f"{server.url}/embeddings answers {status} (context_length_exceeded)"


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[1]", {"error": "my prompt"}, {"error": {"code": "my prompt"}}, {"error": {"code": 7}}],
)
async def test_of_a_refusal_nothing_but_a_plain_word_is_quoted(
    body: Any, server: EmbeddingServer, provider: Provider
) -> None:
    server.handler = answer(body, 500)
    with pytest.raises(ProviderFailed) as failed:
        await provider.embed(["my prompt"])
    assert str(failed.value) == f"{server.url}/embeddings answers 500"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("7", 7), ("0.25", 0.25), ("86400", 60), ("-5", 0), ("soon", 0), ("", 0), ("1e9", 0), ("٣", 0)),
        *(("Mon, 23 Nov 99999 10:00:00 GMT", 0), (f"Mon, 23 Nov 2026 10:00:00 +{'9' * 20}", 0)),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_it_wants_to_be_left_alone_is_heard_up_to_a_minute(
    header: str, seconds: float, status: int, server: EmbeddingServer, provider: Provider
) -> None:
    server.handler = answer({}, status, **{"Retry-After": header})
    with pytest.raises(ProviderFailed) as failed:
        await provider.embed(["a"])
    assert failed.value.retry_after == seconds


async def test_where_it_is_asked_too_often_the_setting_is_named(
    server: EmbeddingServer, provider: Provider
) -> None:
    server.handler = answer({"error": {"code": "rate_limit_exceeded"}}, 429)
    with pytest.raises(ProviderFailed, match=r"\(rate_limit_exceeded\): .+_REQUESTS_PER_MINUTE"):
        await provider.embed(["a"])


async def test_it_may_name_a_date(server: EmbeddingServer, provider: Provider) -> None:
    for away, least, most in ((30, 20, 30), (-30, 0, 0), (3600, 60, 60)):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=away), usegmt=True)
        server.handler = answer({}, 429, **{"Retry-After": date})
        with pytest.raises(ProviderFailed) as failed:
            await provider.embed(["a"])
        assert least <= failed.value.retry_after <= most


async def test_one_that_refuses_connections_is_unreachable_until_it_is_back(
    server: EmbeddingServer, provider: Provider
) -> None:
    await provider.embed(["a"])
    await server.stop()
    with pytest.raises(ProviderFailed) as failed:
        await provider.embed(["a"])
    assert failed.value.kind == "unreachable"
    assert f"{server.url}/embeddings cannot be reached" in str(failed.value)
    await server.start()
    assert len(await provider.embed(["a"])) == 1


async def test_one_that_hangs_up_in_the_middle_is_unreachable(
    server: EmbeddingServer, provider: Provider
) -> None:
    server.handler = None
    with pytest.raises(ProviderFailed) as failed:
        await provider.embed(["a"])
    assert failed.value.kind == "unreachable"


NO_HTTP = {
    "another protocol": b"SSH-2.0-my prompt\r\n",
    "a chunk without its size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmy prompt\r\n",
    "a header that is none": b"HTTP/1.1 200 OK\r\nmy prompt\r\n\r\n",
    "less than was announced": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nmy prompt",
    "not compressed as it says": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nmy prompt"
    ),
}


@contextlib.asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **more: Any
) -> AsyncIterator[str]:
    """Something that listens on a port for the length of a block, and need not talk HTTP; yield its place."""
    listener = await asyncio.start_server(talk, "127.0.0.1", 0, **more)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_is_garbage_that_is_not_quoted(name: str, server: EmbeddingServer) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(NO_HTTP[name])
        await writer.drain()
        writer.close()

    async with listening(talk) as place:
        provider = asking(server, url=f"http://{place}/v1")
        with pytest.raises(ProviderFailed) as failed:
            await provider.embed(["my prompt"])
        await provider.close()
    assert failed.value.kind == "garbage"
    assert str(failed.value).startswith(f"http://{place}/v1/embeddings answers what is no HTTP")
    assert "my prompt" not in str(failed.value)


async def test_one_that_hangs_up_amid_its_headers_is_not_quoted(server: EmbeddingServer) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX-Input: my prompt\r\nX")
        await writer.drain()
        writer.close()

    async with listening(talk) as place:
        provider = asking(server, url=f"http://{place}/v1")
        with pytest.raises(ProviderFailed, match="cannot be reached: ServerDisconnectedError") as failed:
            await provider.embed(["my prompt"])
        await provider.close()
    assert failed.value.kind == "unreachable"


async def test_a_name_that_no_host_can_have_is_unreachable(server: EmbeddingServer) -> None:
    for name in (f"{'a' * 64}.example", "embeddings..example"):
        provider = asking(server, url=f"http://{name}/v1")
        with pytest.raises(ProviderFailed, match=f"http://{name}/v1/embeddings cannot be reached") as failed:
            await provider.embed(["a"])
        await provider.close()
        assert failed.value.kind == "unreachable"


async def test_one_whose_certificate_nobody_vouches_for_is_told_nothing(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    heard = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Authority(tmp_path / "ca").issue("127.0.0.1"))
    async with listening(talk, ssl=context) as place:
        provider = asking(server, url=f"https://{place}/v1", key=KEY)
        with pytest.raises(ProviderFailed, match="certificate verify failed") as failed:
            await provider.embed(["my prompt"])
        await provider.close()
    assert failed.value.kind == "unreachable"
    assert not any(heard)


async def test_one_that_answers_byte_by_byte_is_given_up(server: EmbeddingServer) -> None:
    done = asyncio.Event()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not done.is_set():
            writer.write(b" ")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.02)
        writer.close()

    async with listening(talk) as place:
        provider = asking(server, url=f"http://{place}/v1", timeout_seconds=0.3)
        with pytest.raises(ProviderFailed, match=r"has not answered within 0\.3 s") as failed:
            await provider.embed(["a"])
        done.set()
        await provider.close()
    assert failed.value.kind == "unreachable"


async def test_one_that_does_not_answer_is_given_up(server: EmbeddingServer) -> None:
    never = asyncio.Event()

    async def dawdle(_: list[str]) -> web.Response:
        await never.wait()
        return web.Response()

    server.handler = dawdle
    provider = asking(server, timeout_seconds=0.2)
    with pytest.raises(ProviderFailed, match=r"has not answered within 0\.2 s") as failed:
        await provider.embed(["a"])
    never.set()
    await provider.close()
    assert failed.value.kind == "unreachable"


async def test_a_request_waits_for_the_limit_of_requests(server: EmbeddingServer) -> None:
    """The first goes at once, the second waits for its turn: 1,000 minutes in this case."""
    provider = asking(server, requests_per_minute=0.001)
    await provider.embed(["a"])
    second = asyncio.create_task(provider.embed(["b"]))
    await asyncio.sleep(0)
    third = asking(server)
    await third.embed(["c"])
    assert server.asked == [["a"], ["c"]]
    assert not second.done()
    second.cancel()
    await asyncio.wait({second})
    for one in (provider, third):
        await one.close()


async def test_a_request_that_was_not_made_counts_for_none(server: EmbeddingServer) -> None:
    """Those that are given up while they wait for their turn do not put off the next one."""
    provider = asking(server, requests_per_minute=60)
    await provider.embed(["a"])
    for _ in range(10_000):
        waiting = asyncio.create_task(provider.embed(["b"]))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    await provider.embed(["c"])
    await provider.close()
    assert server.asked == [["a"], ["c"]]


async def test_no_error_shows_the_key_or_a_text(server: EmbeddingServer, provider: Provider) -> None:
    for status in (400, 401, 429, 500, 200):
        server.handler = answer({"error": {"message": KEY, "code": KEY, "type": "my prompt"}}, status)
        with pytest.raises((ProviderFailed, TextRefused)) as failed:
            await provider.embed(["my prompt"])
        assert KEY not in str(failed.value)
        assert "my prompt" not in str(failed.value)
    assert KEY not in repr(vars(provider))


async def test_a_large_batch_is_decoded_to_the_float32_that_it_says(server: EmbeddingServer) -> None:
    texts = [str(number) for number in range(300)]
    numbers = [[number + place / 10 for place in range(DIMENSIONS)] for number in range(300)]
    server.handler = answer({"data": [item(index, *vector) for index, vector in enumerate(numbers)]})
    provider = asking(server)
    made = await provider.embed(texts)
    await provider.close()
    assert [list(one) for one in made] == [pytest.approx(row, rel=1e-7) for row in numbers]
    assert {one.itemsize for one in made} == {4}


async def test_a_text_that_is_asked_about_goes_there_without_its_secrets(server: EmbeddingServer) -> None:
    settings = EmbeddingSettings(provider="openai", url=server.url, model=MODEL, dimensions=DIMENSIONS)
    texts = TextEmbedder(settings, 20, Redactor(["email"]))
    model, embedding = await texts.embed("what of ann@example.org")
    await texts.close()
    assert (model, list(embedding)) == (MODEL, vector(server.asked[0][0]))
    assert "example" not in server.asked[0][0]
