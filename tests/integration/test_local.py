"""The provider `local`: a real process, whose vectors are compared with WordLlama's own files."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tests.waiting import until
from tracker_daemon.embeddings import ProviderFailed
from tracker_daemon.embeddings.local import _PROGRAM, Local

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXTS = [
    "RSI is 62.4 and the trend is up: buy BTC/USDT?",
    "x",
    "Der Kurs fällt, 市場は下落, рынок падает 📉",
    "Sell everything. " * 400,
    "\x01\u0378 \u200b",
    "line\nline\ttab 'quotes' \"and\" \\slashes\\",
]


def mean_of_tokens(text: str) -> list[float]:
    """What WordLlama says that an embedding is, from the files of its wheel."""
    folder = files("wordllama")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    [vectors] = load_file(str(folder / "weights" / "l2_supercat_256.safetensors")).values()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    mean: list[float] = vectors[ids].astype(np.float64).mean(axis=0).tolist()
    return mean


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    """Yield the provider; its process starts with the first batch."""
    local = Local(60)
    yield local
    await local.close()


def pid_of(local: Local) -> int:
    assert local._process is not None
    return local._process.pid


async def test_a_vector_is_the_mean_of_its_tokens_vectors_whatever_else_is_in_the_batch(local: Local) -> None:
    expected = [pytest.approx(mean_of_tokens(text), abs=1e-4) for text in TEXTS]
    made = await local.embed(TEXTS)
    assert [one.tolist() for one in made] == expected
    assert {(len(one), one.itemsize) for one in made} == {(local.dimensions, 4)}
    alone = [(await local.embed([text]))[0] for text in TEXTS]
    assert alone == made


async def test_it_takes_only_the_time_that_nobody_wants(local: Local) -> None:
    await local.embed(["a"])
    assert os.getpriority(os.PRIO_PROCESS, pid_of(local)) == 19


async def test_one_that_is_killed_fails_its_batch_and_is_started_anew(local: Local) -> None:
    before = await local.embed(TEXTS)
    os.kill(pid_of(local), signal.SIGKILL)
    with pytest.raises(ProviderFailed, match="has ended") as failed:
        await local.embed(TEXTS)
    assert failed.value.kind == "failing"
    assert await local.embed(TEXTS) == before


async def test_where_no_process_can_be_started_it_fails_until_one_can(local: Local) -> None:
    """As on a machine without memory, or with as many processes as it may have."""
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(ProviderFailed, match="cannot be started: Too many open files") as failed:
            await local.embed(["a"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    assert failed.value.kind == "failing"
    assert len(await local.embed(["a"])) == 1


async def test_one_that_takes_too_long_is_ended(local: Local) -> None:
    await local.embed(["a"])
    local._timeout_seconds = 0.2
    pid = pid_of(local)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProviderFailed, match=r"within 0\.2 s") as failed:
        await local.embed(["b"])
    assert failed.value.kind == "unreachable"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_was_cancelled_does_not_answer_the_next_batch(local: Local) -> None:
    [expected] = await local.embed(["b"])
    pid = pid_of(local)
    os.kill(pid, signal.SIGSTOP)
    asking = asyncio.create_task(local.embed(["a"]))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert await local.embed(["b"]) == [expected]
    assert pid_of(local) != pid


async def test_closed_twice_or_unused_it_leaves_no_process(local: Local) -> None:
    await local.close()
    await local.embed(["a"])
    pid = pid_of(local)
    await local.close()
    await local.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_process_outlasts_the_daemons_signals_and_ends_with_its_stdin() -> None:
    """As when systemd signals the whole group, and when the daemon is killed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(_PROGRAM), "256"), stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for number in (None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not None:
            process.send_signal(number)
        process.stdin.write(b'\0\0\0\5["a"]')
        assert len(await process.stdout.readexactly(1024)) == 1024
    process.stdin.close()
    await until(lambda: process.returncode is not None)
    assert process.returncode == 0
    await process.communicate()
