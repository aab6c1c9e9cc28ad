"""Redaction through the real daemon: no table and no log line ever shows what had to be cut out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import nats.js.api
import orjson

from tests.acceptance.command import tracker
from tests.factory import decision, outcome
from tracker_daemon.messages import REASONS

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

MARK = "AKIA00000000"
CUT = "[redacted:keys]"
MAX_PAYLOAD_BYTES = 20_000

# What an operator's own rule says may quote the row that it refuses.
RULES = """
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'no: % / %', NEW.prompt, NEW.context USING ERRCODE = 'check_violation', DETAIL = NEW.prompt;
END $$;
CREATE TRIGGER judge BEFORE INSERT ON llm_decisions
    FOR EACH ROW WHEN (NEW.symbol = 'NO') EXECUTE FUNCTION judge();
"""


class Vault:
    """Makes secrets of 20 characters, each another one, and looks for them."""

    def __init__(self) -> None:
        """Begin with the first."""
        self._numbers = itertools.count()

    def __call__(self) -> str:
        """The next secret."""
        return f"{MARK}{next(self._numbers):08d}"

    async def assert_unseen(self, sql: asyncpg.Connection, *logs: str) -> None:
        """No column of any table holds one of them, as text, escapes or bytes, and no log either."""
        tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {"llm_decisions", "llm_outcomes", "llm_dead_letters"} <= {table for (table,) in tables}
        shown = list(logs)
        for (table,) in tables:
            shown += [row for (row,) in await sql.fetch(f"SELECT row::text FROM {table} row")]
        spellings = [MARK, spelt(MARK), MARK.encode().hex(), MARK.encode("utf-16-le").hex()]
        assert not [text for text in shown for spelling in spellings if spelling in text]


def spelt(text: str) -> str:
    """The text as JSON escapes."""
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def raw(payload: dict[str, Any], name: str, text: str) -> bytes:
    return msgspec.json.encode(payload | {name: msgspec.Raw(text.encode())})


async def test_no_table_and_no_log_shows_a_secret_whichever_way_it_came(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    await sql.execute(RULES)
    await make_open_stream(stream)
    secret = Vault()
    texts = ("agent_name", "decision_type", "symbol", "prompt", "response", "model", "action")
    labels = ("embedding_model", "experiment", "variant")
    whole, twice, refused = str(uuid4()), str(uuid4()), str(uuid4())
    decisions: list[dict[str, Any] | bytes] = [
        decision(
            id=whole,
            prompt=f"Use {secret()} now.\n{secret()}",
            response=f'{{"action": "\\u0041{secret()[1:]}", "note": "{secret()}"}}',
            context={"rsi": 62.125, secret(): {"deep": [1, {"key": f"a {secret()} b"}]}},
            desk={"n": 1.5, secret(): secret()},
            **{secret(): 7},
        ),
        *(decision(**{name: secret()}) for name in (*texts, *labels)),
        raw(decision(), "prompt", f'"split {spelt(secret())}"'),
        decision(response=f'{{"quoted": "{spelt(secret())}"}}', context={"id": f"{secret()}"}),
        raw(decision(), "metadata", f'{{"{spelt(secret())}": "{spelt(secret())}"}}'),
        # Dead letters, one for each way of breaking the contract.
        f'{{"prompt": "{secret()}'.encode(),
        f"{secret()} {{'a': {spelt(secret())}".encode(),
        b'"\xff' + secret().encode() + b'"',
        f'{{"prompt": "{secret()}"}}'.encode("utf-16"),
        f'{{"prompt": "{secret()}"}}'.encode("utf-16-le"),
        orjson.dumps([secret()]),
        orjson.dumps(secret()),
        msgspec.json.encode(decision(model=None, prompt=secret(), **{secret(): 1})),
        decision(id=secret()),
        decision(context={secret(): {secret(): "\0"}}),
        decision(context=f"{secret()}"),
        raw(decision(), "prompt", f'"half \\ud83d {spelt(secret())}"'),
        raw(decision(), "context", f'{{"{secret()}": [1e400]}}'),
        decision(prompt_embedding=[1, 2], prompt=secret()),
        decision(prompt=f"{secret()} " * 1000),
        b"[" * 300 + secret().encode() + b"]" * 300,
        decision(id=twice, prompt=secret()),
        decision(id=twice, prompt="another", response=secret()),
        decision(id=refused, symbol="NO", prompt=f"quoted {secret()}", context={secret(): secret()}),
    ]
    daemon = await (await run(redacting(settings))).ready()
    js = stream.client.jetstream()
    for payload in decisions:
        data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        await js.publish(stream.decisions, data, headers={"Trace": secret(), f"X-{secret()}": "1"})
    foreign = f"{stream.name}.{secret()}"
    await js.publish(foreign, msgspec.json.encode(decision(prompt=secret())), headers={"Trace": secret()})
    outcomes = [
        outcome(whole, source=f"from {secret()}", note=secret(), extra=[secret()]),
        outcome(whole, word=secret()),
        {"outcome": "SUCCESS", "note": secret()},
    ]
    await stream.publish(*outcomes, subject=stream.outcomes)
    messages = len(decisions) + 1 + len(outcomes)
    await stream.settled(messages)

    await secret.assert_unseen(sql, daemon.output())
    reasons = await sql.fetch("SELECT DISTINCT reason FROM llm_dead_letters")
    assert {reason for (reason,) in reasons} == set(REASONS)
    row = await sql.fetchrow("SELECT * FROM llm_decisions WHERE id = $1", whole)
    assert row is not None
    assert (row["prompt"], row["action"]) == (f"Use {CUT} now.\n{CUT}", CUT)
    assert orjson.loads(row["context"]) == {"rsi": 62.125, CUT: {"deep": [1, {"key": f"a {CUT} b"}]}}
    assert orjson.loads(row["extra"]) == {"desk": {"n": 1.5, CUT: CUT}, CUT: 7}
    event = await sql.fetchrow("SELECT * FROM llm_outcomes WHERE decision_id = $1", whole)
    assert event is not None
    assert (event["source"], event["note"], event["extra"]) == (f"from {CUT}", CUT, f'{{"extra": ["{CUT}"]}}')
    letter = await sql.fetchrow("SELECT * FROM llm_dead_letters WHERE reason = 'rejected_by_database'")
    assert letter is not None
    assert f"no: quoted {CUT}" in letter["detail"]
    assert orjson.loads(letter["headers"]) == {"Trace": CUT, f"X-{CUT}": "1"}
    subjects = await sql.fetch("SELECT subject FROM llm_dead_letters WHERE reason = 'unknown_subject'")
    assert [row["subject"] for row in subjects] == [f"{stream.name}.{CUT}"]
    assert await daemon.stop() == 0

    found = await tracker("verify", "--json", settings=redacting(settings))
    assert orjson.loads(found.out)["ok"], found
    shown = await tracker("dead-letters", "replay", "--all", "--json", settings=redacting(settings))
    listed = await tracker("dead-letters", "list", settings=redacting(settings))
    await secret.assert_unseen(sql, daemon.output(), *found[1:], *shown[1:], *listed[1:])


async def test_what_was_replayed_out_of_the_dead_letters_is_what_the_stream_would_have_brought(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """Cut a second time it stays the same: delivered once more, it is a duplicate and no conflict."""
    secret = Vault()
    daemon = await (await run(redacting(settings))).ready()
    await stream.publish(decision(id=str(uuid4()), prompt=f"{secret()}\n" + "x" * MAX_PAYLOAD_BYTES), b"{")
    await stream.settled(2)
    assert await daemon.stop() == 0
    raised = redacting(settings) | {"TRACKER_NATS_MAX_PAYLOAD_BYTES": "1MiB"}
    replayed = await tracker("dead-letters", "replay", "--reason", "too_large", settings=raised)
    assert replayed.code == 0
    await secret.assert_unseen(sql, daemon.output(), *replayed[1:])

    stream.durable += "-again"
    daemon = await (await run(raised | {"TRACKER_NATS_DURABLE": stream.durable})).ready()
    await stream.settled(2)
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters") == 2
    assert (await sql.fetchval("SELECT prompt FROM llm_decisions"))[:17] == f"{CUT}\nx"
    metrics = await daemon.metrics()
    assert metrics("messages_settled_total", subject=stream.decisions, result="duplicate") == 2
    await secret.assert_unseen(sql, daemon.output())


async def test_patterns_that_cannot_be_used_refuse_to_start_each_by_its_entry() -> None:
    given = {"TRACKER_REDACT_PRESETS": "keys,mail", "TRACKER_REDACT_PATTERNS": "a+\n(b\nc*"}
    ended = await tracker("run", settings=given)
    assert (ended.code, ended.out) == (2, "")
    assert [line.removeprefix("tracker-daemon: TRACKER_REDACT_") for line in ended.err.splitlines()] == [
        "PRESETS: entry 2 must be 'keys', 'tokens', 'email' or 'cards', got 'mail'",
        "PATTERNS: entry 2 must be what RE2 can compile: missing ): (b",
        "PATTERNS: entry 3 must not match the empty text, as 'c*' does",
    ]


def redacting(settings: dict[str, str]) -> dict[str, str]:
    return settings | {
        "TRACKER_REDACT_PRESETS": "keys,tokens,email,cards",
        "TRACKER_NATS_MAX_PAYLOAD_BYTES": str(MAX_PAYLOAD_BYTES),
        "TRACKER_LOG_LEVEL": "debug",
    }


async def make_open_stream(stream: Stream) -> None:
    """An operator's stream and durable that bring other subjects as well."""
    js = stream.client.jetstream()
    subjects = [stream.decisions, stream.outcomes, f"{stream.name}.*"]
    await js.add_stream(nats.js.api.StreamConfig(name=stream.name, subjects=subjects))
    policy = nats.js.api.AckPolicy.EXPLICIT
    config = nats.js.api.ConsumerConfig(
        durable_name=stream.durable, ack_policy=policy, max_ack_pending=20_000
    )
    await js.add_consumer(stream.name, config)
