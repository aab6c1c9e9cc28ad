"""The record asked from the command line; what is printed is compared with plain Python over its rows."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson
import pytest

from tests.acceptance.command import SCRIPT, Finished, tracker
from tests.factory import decision, deliver, outcome
from tests.record import BEGIN, drawdown, given, grouped, known, mean, percentile
from tracker_daemon.store import Store

if TYPE_CHECKING:
    import asyncpg

    from tests.record import Row

AS_OF = "2026-01-12T00:00:00Z"


@pytest.fixture
def asked(dsn: str) -> dict[str, str]:
    """The settings of a command that asks, on a terminal's 80 columns."""
    return {"TRACKER_POSTGRES_DSN": dsn, "COLUMNS": "80"}


async def ask(asked: dict[str, str], *arguments: str) -> str:
    """Run a command that has to succeed without a word on stderr."""
    ended = await tracker(*arguments, settings=asked)
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def numbers(rows: list[Row]) -> dict[str, Any]:
    """The statistics that are told of these rows, but for the interval."""
    word = [row["outcome"] for row in rows]
    successful, failed = word.count("SUCCESS"), word.count("FAILURE")
    pnl, latency = given(rows, "pnl"), given(rows, "latency_ms")
    return {
        "total_decisions": len(rows),
        "successful": successful,
        "failed": failed,
        "pending": len(rows) - successful - failed,
        "success_rate": successful / len(rows),
        "resolved_success_rate": successful / (successful + failed),
        "avg_pnl": mean(pnl),
        "total_pnl": sum(pnl),
        "max_drawdown": drawdown(rows),
        "avg_latency_ms": mean(latency),
        "p95_latency_ms": percentile(latency, 0.95),
        "avg_tokens_used": mean(given(rows, "tokens_used")),
        "total_cost_usd": sum(given(rows, "cost_usd")),
        "avg_confidence": mean(given(rows, "confidence")),
    }


def table(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines() if line]


class TestStats:
    """`stats`."""

    async def test_all_together(self, asked: dict[str, str], record: asyncpg.Connection) -> None:
        """As a table, which 80 columns hold, and as JSON."""
        expected = numbers(await known(record))
        [group] = orjson.loads(await ask(asked, "stats", "--json"))["groups"]
        assert {name: float(group[name]) for name in expected} == pytest.approx(
            {name: float(value) for name, value in expected.items()}
        )
        text = await ask(asked, "stats")
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text
        shown = {line[0]: line[1].replace(",", "") for line in table(text)}
        for name, value in expected.items():
            told = shown[name]
            read = float(told[:-1]) / 100 if told.endswith("%") else float(told)
            assert read == pytest.approx(float(value), rel=1e-3), name

    async def test_groups(self, asked: dict[str, str], record: asyncpg.Connection) -> None:
        """As JSON, CSV and a table; columns by their names, or as the options call them."""
        rows = [row for row in await known(record) if row["agent_name"] == "risk"]
        expected = {key: numbers(rows) for key, rows in grouped(rows, lambda row: row["model"]).items()}
        question = ("stats", "--agent", "risk", "--group-by", "model,type", "--group-by", "model")
        told = orjson.loads(await ask(asked, *question, "--json"))["groups"]
        lines = list(csv.DictReader(io.StringIO(await ask(asked, *question, "--csv"), newline="")))
        for group, line in zip(told, lines, strict=True):
            assert line["decision_type"] == group["key"]["decision_type"] == "signal"
            assert line["model"] == group["key"]["model"]
            for name, value in expected.pop(line["model"]).items():
                assert float(line[name]) == float(group[name]) == pytest.approx(float(value)), name
            assert Decimal(line["total_pnl"]) == Decimal(group["total_pnl"])
        assert not expected
        text = await ask(asked, *question)
        assert max(map(len, text.splitlines())) <= 80
        for line, group in zip(table(text)[1:], told, strict=True):
            model, type_, decisions, success_rate, resolved, bar, pnl = line
            assert (model, type_, int(decisions)) == (
                group["key"]["model"],
                "signal",
                group["total_decisions"],
            )
            assert (success_rate, resolved) == (
                f"{group['success_rate']:.1%}",
                f"{group['resolved_success_rate']:.1%}",
            )
            assert bar.count("●") == 1
            assert Decimal(pnl.replace(",", "")) == pytest.approx(
                Decimal(group["total_pnl"]), abs=Decimal("0.01")
            )

    async def test_days_are_told_in_their_order_with_a_line_of_their_pnl(
        self, asked: dict[str, str], record: asyncpg.Connection
    ) -> None:
        days = grouped(await known(record), lambda row: f"{row['created_at']:%Y-%m-%d}")
        text = await ask(asked, "stats", "--group-by", "day")
        lines = table(text)
        assert [line[0] for line in lines[1 : 1 + len(days)]] == sorted(days)
        assert ["2026-01-01", "to", "2026-01-10", "least", "greatest"] in lines
        spark, least, greatest = lines[-1]
        pnl = [sum(given(days[day], "pnl")) for day in sorted(days)]
        assert Decimal(least.replace(",", "")) == min(pnl)
        assert Decimal(greatest.replace(",", "")) == max(pnl)
        assert len(spark) == len(pnl)
        assert (spark.index("█"), spark.index("▁")) == (pnl.index(max(pnl)), pnl.index(min(pnl)))

    async def test_decisions_without_a_time_have_no_day(
        self, asked: dict[str, str], record: asyncpg.Connection
    ) -> None:
        """Adopted ones."""
        await record.execute("UPDATE llm_decisions SET created_at = NULL")
        rows = await known(record)
        [header, line] = table(await ask(asked, "stats", "--group-by", "day"))
        assert (header[0], line[:2]) == ("day", ["-", str(len(rows))])

    async def test_as_of_and_maturity(self, asked: dict[str, str], record: asyncpg.Connection) -> None:
        as_of = BEGIN.replace(day=9)
        rows = await known(record, as_of)
        old = [row for row in rows if row["created_at"] <= as_of.replace(day=7)]
        question = ("stats", "--as-of", "2026-01-09", "--maturity", "2d")
        told = orjson.loads((await tracker(*question, "--json", settings=asked)).out)
        assert told["left_out"] == len(rows) - len(old) > 0
        assert told["groups"][0]["successful"] == numbers(old)["successful"]
        assert f"{told['left_out']} decisions are too young, and left out." in await ask(asked, *question)
        for_programs = await tracker(*question, "--csv", settings=asked)
        assert "too young" in for_programs.err
        assert len(for_programs.out.splitlines()) == 2

    async def test_the_settings_of_questions_hold(
        self, asked: dict[str, str], record: asyncpg.Connection
    ) -> None:
        """Where they are asked, and what is too young unless the command says otherwise."""
        elsewhere = {
            **asked,
            "TRACKER_POSTGRES_DSN": "postgresql://127.0.0.1:1/nowhere",
            "TRACKER_QUERY_DSN": asked["TRACKER_POSTGRES_DSN"],
            "TRACKER_QUERY_MATURITY_SECONDS": str(86_400 * 3650),
        }
        rows = await known(record)
        told = await tracker("stats", "--json", settings=elsewhere)
        assert orjson.loads(told.out)["left_out"] == len(rows)
        assert orjson.loads(await ask(elsewhere, "stats", "--maturity", "0s", "--json"))["left_out"] == 0


FILTERS: dict[tuple[str, ...], Any] = {
    ("--agent", "\u00fcber", "--model", "gpt-x"): lambda r: (
        (r["agent_name"], r["model"]) == ("\u00fcber", "gpt-x")
    ),
    ("--symbol", "ETH", "--action", "SELL"): lambda row: (row["symbol"], row["action"]) == ("ETH", "SELL"),
    ("--type", "signal", "--outcome", "pending"): lambda row: row["outcome"] in {None, "PENDING"},
    ("--min-confidence", "0.5"): lambda row: (row["confidence"] or 0) >= Decimal("0.5"),
    ("--max-pnl", "-1", "--min-pnl", "-1e3"): lambda row: (
        row["pnl"] is not None and -1000 <= row["pnl"] <= -1
    ),
    ("--max-tokens-used", "500"): lambda row: row["tokens_used"] is not None and row["tokens_used"] <= 500,
    ("--context", '{"trend": "up"}'): lambda row: '"up"' in (row["context"] or ""),
    ("--since", "2026-01-03", "--until", "2026-01-04T00:00:00Z"): lambda row: row["created_at"].day == 3,
    ("--session", str(UUID(int=7))): lambda _: False,
    ("--experiment", "size", "--variant", "large"): lambda _: False,
}


class TestLists:
    """`recent`, `successful`, `failed`."""

    @pytest.mark.parametrize("arguments", FILTERS, ids=" ".join)
    async def test_filters(
        self, arguments: tuple[str, ...], asked: dict[str, str], record: asyncpg.Connection
    ) -> None:
        expected = {str(row["id"]) for row in await known(record) if FILTERS[arguments](row)}
        told = orjson.loads(await ask(asked, "recent", *arguments, "--json", "--limit", "1000"))
        assert {row["id"] for row in told["rows"]} == expected
        text = await ask(asked, "recent", *arguments, "--limit", "1000")
        assert text == "No decision is like that.\n" if not expected else all(id_ in text for id_ in expected)

    @pytest.mark.parametrize(
        ("command", "word", "key", "descending"),
        [
            ("recent", None, lambda row: (row["created_at"], row["id"]), True),
            ("successful", "SUCCESS", lambda row: (row["pnl"] or 0, row["id"]), True),
            ("failed", "FAILURE", lambda row: (row["pnl"] or 0, row["id"]), False),
        ],
    )
    async def test_pages(
        self,
        command: str,
        word: str | None,
        key: Any,
        descending: bool,
        asked: dict[str, str],
        record: asyncpg.Connection,
    ) -> None:
        """By cursors, for which 3650 days ago is not the same time, and all at once, in each form."""
        rows = [row for row in await known(record) if word is None or row["outcome"] == word]
        expected = [str(row["id"]) for row in sorted(rows, key=key, reverse=descending)]
        size = len(expected) // 2 + 1
        question = (command, "--limit", str(size), "--since", "3650d", "--json")
        first = orjson.loads(await ask(asked, *question))
        second = orjson.loads(await ask(asked, *question, "--cursor", first["cursor"]))
        assert [row["id"] for row in first["rows"] + second["rows"]] == expected
        assert second["cursor"] is None
        lines = await ask(asked, command, "--all", "--limit", "9", "--json")
        assert [row["id"] for line in lines.splitlines() for row in orjson.loads(line)["rows"]] == expected
        sheet = await ask(asked, command, "--all", "--limit", "9", "--csv")
        assert [line["id"] for line in csv.DictReader(io.StringIO(sheet, newline=""))] == expected
        text = await ask(asked, command, "--all", "--limit", "9")
        assert [line[0] for line in table(text)[2::2]] == expected
        assert max(map(len, text.splitlines())) <= 80
        some = await ask(asked, command, "--limit", "9")
        assert some.splitlines()[-1].startswith("There are more: --cursor ")

    async def test_csv_is_exact_and_runs_no_formula(self, asked: dict[str, str], dsn: str) -> None:
        """Text that a spreadsheet would run gets an apostrophe, a negative number does not."""
        store, id_ = Store(dsn), str(uuid4())
        prompt = '=HYPERLINK("http://x","\u00fc")\r\nnext, "line"'
        await store.write(
            deliver(decision(id=id_, prompt=prompt, response="fine -1", context={"a": [1, None]}))
        )
        await store.write(deliver(outcome(id_, "FAILURE", pnl="-0.00000001")))
        await store.close()
        ended = await tracker("failed", "--csv", settings=asked)
        assert ended.out.startswith("id,session_id,agent_name,")
        assert ended.out.count("\r\n") == 3
        [line] = csv.DictReader(io.StringIO(ended.out, newline=""))
        assert line["prompt"] == f"'{prompt}"
        assert (line["response"], line["pnl"], line["session_id"]) == ("fine -1", "-0.00000001", "")
        assert (orjson.loads(line["context"]), line["cut"]) == ({"a": [1, None]}, "false")


class TestSearch:
    """`search`."""

    async def test_words_are_found_page_by_page(self, asked: dict[str, str], dsn: str) -> None:
        """In each form, with where they are."""
        store = Store(dsn)
        texts = ["a breakout of BTC", "=no \x1b[2J break", "breakout again", "Breakout [bold]three"]
        days = [(BEGIN + timedelta(days=n)).isoformat() for n in range(len(texts))]
        prompts = zip(texts, days, strict=True)
        await store.write(deliver(*(decision(prompt=text, timestamp=day) for text, day in prompts)))
        await store.close()
        expected = [texts[3], texts[2], texts[0]]
        lines = await ask(asked, "search", "breakout", "--all", "--limit", "2", "--json")
        rows = [row for line in lines.splitlines() for row in orjson.loads(line)["rows"]]
        assert [row["decision"]["prompt"] for row in rows] == expected
        sheet = await ask(asked, "search", "breakout", "--csv")
        told = list(csv.DictReader(io.StringIO(sheet, newline="")))
        assert [line["prompt"] for line in told] == expected
        assert told[0]["snippet"] == rows[0]["snippet"]
        ended = await tracker("search", "breakout", "--limit", "2", settings=asked)
        assert (ended.code, ended.err) == (0, "")
        assert all(line in ended.out for line in ("«Breakout» [bold]three", "«breakout» again"))
        assert ended.out.splitlines()[-1].startswith("There are more: --cursor ")
        assert max(map(len, ended.out.splitlines()[:-1])) <= 80
        assert "\x1b" not in await ask(asked, "search", "break")
        nothing = await ask(asked, "search", "breakout -btc", "--until", "2026-01-02")
        assert nothing == "No decision is like that.\n"
        assert "no word to look for" in refused(await tracker("search", "?!", settings=asked), 1)

    async def test_where_many_hold_the_words_it_says_how_far_it_has_looked(
        self, asked: dict[str, str], sql: asyncpg.Connection
    ) -> None:
        """The phrase is in the oldest of one decision more than are looked at."""
        await sql.execute(
            "INSERT INTO llm_decisions "
            "(created_at, agent_name, decision_type, symbol, prompt, response, model) "
            "SELECT $1::timestamptz + interval '1 second' * number, 'risk', 'signal', 'BTC', "
            "CASE number WHEN 0 THEN 'stop loss' ELSE 'loss or stop' END, '', 'gpt-x' "
            "FROM generate_series(0, 10000) number",
            BEGIN,
        )
        await sql.execute(
            "INSERT INTO llm_text_index "
            "SELECT id, to_tsvector('simple', llm_searched_text(prompt, response)) FROM llm_decisions"
        )
        said = await ask(asked, "search", '"stop loss"')
        assert said.startswith("Many decisions hold the words, and 10,000 were looked at; there may be more")
        said = await ask(asked, "search", '"stop loss"', "--cursor", said.split()[-1])
        assert "«stop» «loss»" in said
        whole = await ask(asked, "search", '"stop loss"', "--all")
        assert whole == said
        page = orjson.loads(await ask(asked, "search", '"stop loss"', "--json"))
        assert (page["rows"], page["looked_at"]) == ([], 10_000)


class TestSimilar:
    """`similar`."""

    async def test_what_is_near_is_told_with_what_came_of_it(self, asked: dict[str, str], dsn: str) -> None:
        """In each form, and in the sentence."""
        store, ids = Store(dsn), [str(uuid4()) for _ in range(5)]
        contexts = [{"trend": "up"}] * 4 + [{"trend": "do\x1bwn"}]
        actions = ["BUY", "BUY", "BUY", "HOLD", "SELL"]
        words = ["SUCCESS", "FAILURE", "SUCCESS", "SUCCESS", "FAILURE"]
        rows = zip(ids, actions, contexts, words, [400, 50, 900, None, -1], strict=True)
        for day, (id_, action, context, word, pnl) in enumerate(rows):
            time = (BEGIN + timedelta(days=day)).isoformat()
            made = decision(id=id_, action=action, context=context, timestamp=time)
            await store.write(deliver(made, outcome(id_, word, pnl=pnl)))
        await store.close()
        told = orjson.loads(await ask(asked, "similar", '{"trend": "up"}', "--json"))
        assert [each["id"] for each in told["precedents"]] == ids[3::-1]
        sentence = (
            "In similar situations (up) we previously decided: 3 BUY with average P&L $450, 1 HOLD; "
            "success rate 75%."
        )
        assert told["summary"]["text"].startswith(sentence)
        text = await ask(asked, "similar", '{"trend": "up"}', "--limit", "4", "--resolved")
        assert sentence in text
        assert "Of the 5 decisions with a context 5 share enough of the situation, and 4 are near.\n" in text
        assert all(id_ in text for id_ in ids[:4])
        assert 'trend "up" (0.00)' in text
        table = text[: text.index("Of the 5")]
        assert max(map(len, table.splitlines())) <= 80
        sheet = await ask(asked, "similar", '{"trend": "up"}', "--csv", "--max-distance", "1")
        lines = list(csv.DictReader(io.StringIO(sheet, newline="")))
        assert [line["id"] for line in lines] == [*ids[3::-1], ids[4]]
        [trend] = orjson.loads(lines[4]["indicators"])
        assert trend == {"path": "trend", "value": "do\x1bwn", "distance": 1.0}

    async def test_what_is_not_near_and_what_is_wrong_is_said(
        self, asked: dict[str, str], dsn: str, sql: asyncpg.Connection
    ) -> None:
        store = Store(dsn)
        await store.write(deliver(decision(context={"trend": "down", "x": 1})))
        await store.close()
        text = await ask(asked, "similar", '{"trend": "up", "rsi": 62, "flat": true}', "--min-overlap", "0.3")
        assert text.splitlines() == [
            "Of the 1 decisions with a context 1 share enough of the situation, and 0 are near.",
            "The nearest is 1.000 away: see --max-distance.",
            "Not compared, as no scale is known for it: rsi.",
            "In similar situations (up, rsi ~62, flat true) we decided nothing yet: not enough evidence.",
        ]
        await sql.execute('INSERT INTO llm_scales VALUES (now(), 20, \'{"id": {"identifier": true}}\')')
        text = await ask(asked, "similar", '{"trend": "up", "id": "7"}')
        assert "\nLeft out, as nearly every decision has another one (--weight counts it): id.\n" in text
        none = await ask(asked, "similar", '{"trend": "down"}', "--resolved")
        assert none.startswith("Of the 0 decisions with a context")
        for arguments, code, says in (
            (["{}"], 1, "says nothing that counts"),
            (["up"], 2, "expected a JSON object"),
            (['{"a": 1}', "--weight", "a"], 2, "expected PATH=NUMBER"),
            (['{"a": 1}', "--weight", "b=2"], 1, "a weight for b"),
        ):
            assert says in refused(await tracker("similar", *arguments, settings=asked), code)


class TestContext:
    """`context`."""

    async def test_a_block_for_a_prompt(self, asked: dict[str, str], record: asyncpg.Connection) -> None:
        """The same text as in the JSON, within the budget."""
        del record
        question = ("context", '{"trend": "up"}', "--agent", "risk", "--symbol", "BTC", "--as-of")
        text = await ask(asked, *question, "2026-01-09", "--budget", "700")
        assert text.startswith("# The record of risk on BTC, as of 2026-01-09 00:00 UTC\n\n")
        assert "\nIn similar situations (up) we previously decided: " in text
        assert "\n## Record\n" in text
        assert "\nNo room was left for " in text
        told = orjson.loads(await ask(asked, *question, "2026-01-09", "--budget", "700", "--json"))
        assert (told["text"], told["tokens"] <= 700) == (text, True)
        assert told["facts"]["asked"]["agent_name"] == "risk"
        whole = await ask(asked, *question, "2026-01-09", "--budget", "100000", "--quoting", "all")
        assert '\n> data, prompt: "Buy, sell or hold?"\n> data, response: "no JSON"\n' in whole
        assert "No room" not in whole
        assert "> data" not in await ask(asked, *question, "2026-01-09", "--quoting", "none")
        young = await ask(asked, *question, "2026-01-09", "--maturity", "5d")
        assert "\nNot counted, as too young: " in young

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (("{}",), 1, "says nothing that counts"),
            (('{"a": 1}', "--budget", "20"), 1, "a budget of 20 is too small"),
            (('{"a": 1}', "--budget", "0"), 2, "--budget"),
            (('{"a": 1}', "--quoting", "some"), 2, "--quoting"),
            (('{"a": 1}', "--outcome", "failure"), 1, "leave out outcome"),
            (("up",), 2, "expected a JSON object"),
        ],
    )
    async def test_what_is_wrong_is_said(
        self, arguments: tuple[str, ...], code: int, says: str, asked: dict[str, str]
    ) -> None:
        assert says in refused(await tracker("context", *arguments, settings=asked), code)


class TestShow:
    """`show`."""

    async def test_one_decision_whole(self, asked: dict[str, str], dsn: str) -> None:
        """Markup is text, what would control the terminal is spelt out, and JSON has it all."""
        store, id_ = Store(dsn), str(uuid4())
        prompt = "[red]Sell[/] \x1b]0;owned\x07\x9b2J\u202e\u061c " + "all " * 100_000 + "\n\tend"
        fields = {
            "id": id_,
            "prompt": prompt,
            "agent_name": "[bold]x\x1b[31m",
            "timestamp": BEGIN.isoformat(),
        }
        await store.write(deliver(decision(**fields, prompt_embedding=[1, 0.5, 2], embedding_model="e5")))
        events = [("FAILURE", "-3", "[u]wrong\x1b[0m"), ("SUCCESS", "250.50", "corrected")]
        for hour, (word, pnl, note) in enumerate(events, start=1):
            when = BEGIN.replace(hour=hour).isoformat()
            await store.write(deliver(outcome(id_, word, pnl=pnl, note=note, timestamp=when)))
        await store.close()
        text = await ask(asked, "show", id_)
        spelt = prompt.replace("\x1b", r"\u001b").replace("\x07", r"\u0007").replace("\x9b", r"\u009b")
        spelt = spelt.replace("\u202e", r"\u202e").replace("\u061c", r"\u061c")
        assert f"prompt\n{spelt}\n" in text
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\u061c"}
        for part in (r"[bold]x\u001b[31m", "+250.5", "-3", r"[u]wrong\u001b[0m", "3 numbers"):
            assert part in text
        assert text.index("FAILURE") < text.rindex("SUCCESS")
        whole = orjson.loads(await ask(asked, "show", id_, "--json"))
        assert whole["decision"]["prompt"] == prompt
        assert [(event["outcome"], Decimal(event["pnl"]), event["note"]) for event in whole["outcomes"]] == [
            (word, Decimal(pnl), note) for word, pnl, note in events
        ]
        assert whole["prompt_embedding"] == [1, 0.5, 2]
        listed = await ask(asked, "recent")
        assert "\x1b" not in listed
        assert "[bold]x" in listed

    @pytest.mark.parametrize("arguments", [("recent", "--json"), ("recent", "--csv"), ("export",)])
    async def test_a_terminal_is_not_controlled_by_what_programs_get(
        self, arguments: tuple[str, ...], asked: dict[str, str], dsn: str
    ) -> None:
        store = Store(dsn)
        await store.write(deliver(decision(prompt="a\x1b[2J\x9b2Jb")))
        await store.close()
        reading, writing = os.openpty()
        process = await asyncio.create_subprocess_exec(SCRIPT, *arguments, env=asked, stdout=writing)
        assert await process.wait() == 0
        os.close(writing)
        shown = os.read(reading, 1 << 16).decode()
        os.close(reading)
        assert r"a\u001b[2J\u009b2Jb" in shown
        assert not set(shown) & {"\x1b", "\x9b"}

    async def test_an_id_that_is_not_there(self, asked: dict[str, str], record: asyncpg.Connection) -> None:
        """Nor was at the time."""
        unknown = str(uuid4())
        ended = await tracker("show", unknown, settings=asked)
        assert refused(ended, 1).startswith(f"tracker-daemon: there is no decision {unknown}: see")
        id_ = await record.fetchval("SELECT id FROM llm_decisions LIMIT 1")
        ended = await tracker("show", str(id_), "--as-of", "2025-01-01", settings=asked)
        assert "that was known at 2025-01-01 00:00:00 UTC" in refused(ended, 1)


def refused(ended: Finished, code: int) -> str:
    """What a command says that has failed in a proper way."""
    assert (ended.code, ended.out) == (code, "")
    assert "Traceback" not in ended.err
    return " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("recent", "--limit", "10000000"), 2, "less than or equal to 1000"),
        (("recent", "--cursor", "bm8"), 1, "the cursor is none of ours"),
        (("recent", "--session", "7"), 2, "valid UUID"),
        (("show", "7"), 2, "valid UUID"),
        (("stats", "--since", "2999-01-01"), 2, "2999-01-01 has not come yet"),
        (("stats", "--since", "yesterday"), 2, "expected an age like 24h"),
        (("stats", "--maturity", "2026-01-01"), 2, "expected an age like 24h or 5d"),
        (("stats", "--group-by", "model,prompt"), 2, "cannot group by prompt; there are agent, model"),
        (("stats", "--min-pnl", "many"), 2, "many is no number"),
        (("stats", "--max-pnl", "NaN"), 2, "NaN is no number"),
        (("stats", "--min-pnl", "1e200000"), 2, "1e200000 is no number that a column could hold"),
        (("recent", "--agent", "\udcff"), 2, "expected UTF-8"),
        (("stats", "--context", "[1]"), 2, "expected a JSON object"),
        (("stats", "--context", "{"), 2, "expected a JSON object"),
        (("stats", "--context", '{"a": ' * 500 + "1" + "}" * 500), 1, "context is nested deeper"),
        (("stats", "--outcome", "MAYBE"), 2, "expected one of SUCCESS, FAILURE, PENDING"),
        (("successful", "--outcome", "FAILURE"), 1, "successful decisions have no outcome FAILURE"),
    ],
)
async def test_what_cannot_be_asked_is_said(
    arguments: tuple[str, ...], code: int, complaint: str, asked: dict[str, str]
) -> None:
    assert complaint in refused(await tracker(*arguments, settings={**asked, "COLUMNS": "240"}), code)


async def test_a_cursor_of_another_list_is_refused(asked: dict[str, str], record: asyncpg.Connection) -> None:
    assert record
    cursor = orjson.loads(await ask(asked, "recent", "--json"))["cursor"]
    for arguments, says in (
        (("failed",), "the cursor is none of ours"),
        (("recent", "--agent", "risk"), "the cursor belongs to another question"),
    ):
        ended = await tracker(*arguments, "--cursor", cursor, settings=asked)
        assert says in refused(ended, 1)


ODD = {
    "pnl = 'NaN'": "NaN",
    "confidence = 'NaN'": "NaN",
    "created_at = 'infinity'": "9999-12-31",
    "created_at = '-infinity'": "1-01-01",
    "created_at = '20000-01-01Z'": "9999-12-31",
    "created_at = '0044-03-15Z BC'": "1-01-01",
}


@pytest.mark.parametrize("odd", ODD)
async def test_what_python_has_not_is_shown(
    odd: str, asked: dict[str, str], record: asyncpg.Connection
) -> None:
    """An adopted table may hold it: a time beyond the years 1 to 9999 is told as the end of these."""
    [id_] = await record.fetchrow(
        f"UPDATE llm_decisions SET {odd} WHERE id = (SELECT min(id::text)::uuid FROM llm_decisions"
        " WHERE outcome = 'SUCCESS') RETURNING id"
    )
    east = {**asked, "TZ": "Asia/Tokyo"}
    for question in (("recent", "--all"), ("recent", "--all", "--csv"), ("show", str(id_)), ("export",)):
        text = await ask(east, *question)
        assert str(id_) in text
        assert ODD[odd] in text
    await ask(east, "stats")
    await ask(east, "stats", "--group-by", "day")
    bounds = ("--since", "2020-01-01", "--until", "2029-01-01")
    assert (str(id_) in await ask(east, "recent", "--all", *bounds)) == ("NaN" in odd)


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
async def test_a_full_disk_is_a_sentence(form: tuple[str, ...], asked: dict[str, str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123 - a device
        process = await asyncio.create_subprocess_exec(
            SCRIPT, "stats", *form, env=asked, stdout=full, stderr=-1
        )
    _, err = await process.communicate()
    assert err == b"tracker-daemon: No space left on device: what was written is not whole\n"
    assert process.returncode == 1


@pytest.mark.parametrize(
    "command",
    [
        "stats",
        "stats --json",
        "stats --csv",
        "recent --all --json",
        "recent",
        "export",
        "check",
        "check --json",
    ],
)
async def test_a_reader_that_leaves_is_no_trouble(
    command: str, asked: dict[str, str], record: asyncpg.Connection
) -> None:
    """As `head` does once it has enough; the exit code is that of a program which SIGPIPE ends."""
    assert record
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        SCRIPT, *command.split(), env=asked, stdout=write, stderr=-1
    )
    os.close(write)
    _, err = await process.communicate()
    assert (process.returncode, err) == (128 + signal.SIGPIPE, b"")


async def test_a_pnl_is_told_in_one_way(dsn: str, asked: dict[str, str]) -> None:
    """With its sign and two places, or as many as it has up to four."""
    store = Store(dsn)
    await store.write(deliver(decision(id=str(UUID(int=1)), context={"trend": "up"})))
    await store.write(deliver(outcome(UUID(int=1), "SUCCESS", pnl="1250.5")))
    await store.close()
    for command in (
        ("stats",),
        ("stats", "--group-by", "day"),
        ("recent",),
        ("show", str(UUID(int=1))),
        ("similar", '{"trend": "up"}'),
    ):
        assert "+1,250.50" in await ask(asked, *command)


async def test_a_bar_that_cannot_be_encoded_is_no_reason_to_fail(
    asked: dict[str, str], record: asyncpg.Connection
) -> None:
    assert record
    text = await ask({**asked, "PYTHONIOENCODING": "ascii"}, "stats")
    [rate] = [line for line in table(text) if line[0] == "resolved_success_rate"]
    assert set(rate[2]) == {"?"}


async def test_of_an_unknown_agent_there_is_nothing(
    asked: dict[str, str], record: asyncpg.Connection
) -> None:
    assert record
    for command in ("stats", "recent", "successful", "failed"):
        assert await ask(asked, command, "--agent", "nobody") == "No decision is like that.\n"
    [group] = orjson.loads(await ask(asked, "stats", "--agent", "nobody", "--json"))["groups"]
    assert (group["total_decisions"], group["success_rate"]) == (0, None)


@pytest.mark.parametrize("command", ["stats", "recent", "show"])
async def test_no_database_is_a_sentence(command: str, taken_port: int) -> None:
    arguments = (command, str(UUID(int=0))) if command == "show" else (command,)
    dsn = f"postgresql://tracker:hush@127.0.0.1:{taken_port}/tracker"
    said = refused(await tracker(*arguments, settings={"TRACKER_POSTGRES_DSN": dsn}), 1)
    assert said.startswith("tracker-daemon: PostgreSQL")
    assert "hush" not in said
