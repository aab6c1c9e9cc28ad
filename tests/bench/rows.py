"""Messages as trading agents publish them: seeded, and about as compressible as real text."""

from __future__ import annotations

import itertools
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

DIMENSIONS: Final = 1536
SEED: Final = 20_260_101
FIRST: Final = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
"""When the first decision of a load was taken; the others follow, 250 ms apart."""


class Kind(Struct, frozen=True):
    """A size of decision: bytes of JSON on average, its embedding not counted; numbers in its context."""

    name: str
    size: int
    indicators: int = 12
    embedded: bool = False


DEFAULT: Final = Kind("2.7 KB", 2_700)
SMALL: Final = Kind("0.5 KB", 500, indicators=1)
LARGE: Final = Kind("20 KB", 20_000)
EMBEDDED: Final = Kind("embedding", 2_700, embedded=True)
KINDS: Final = (DEFAULT, SMALL, LARGE, EMBEDDED)


def _seeded(*what: object) -> random.Random:
    return random.Random(" ".join(map(str, what)))  # noqa: S311 - the same rows each time; nothing secret


_constants = _seeded("constants")
SESSIONS: Final = tuple(uuid.UUID(int=_constants.getrandbits(128), version=4) for _ in range(50))
"""The trading sessions that decisions belong to."""

AGENTS: Final = ("momentum", "mean-reversion", "breakout", "risk-manager", "news-reader", "pairs", "macro")
SYMBOLS: Final = (
    *("AAPL", "MSFT", "NVDA", "AMZN", "GOOG", "META", "TSLA", "JPM", "XOM", "UNH", "BTC", "ETH", "SOL"),
    *("SPY", "QQQ", "GLD", "TLT", "EURUSD", "USDJPY", "CL"),
)
MODELS: Final = ("gpt-x-large", "claude-quant", "llama-trade-70b")
_TYPES: Final = ("signal", "risk_approval", "sizing", "exit")
_ACTIONS: Final = ("BUY", "SELL", "HOLD")
_INDICATORS: Final = (
    *("rsi_14", "macd", "macd_signal", "atr_14", "adx_14", "ema_20", "ema_50", "sma_200"),
    *("bollinger_upper", "bollinger_lower", "volume_ratio", "vwap", "obv_slope", "stochastic_k"),
)


def payloads(kind: Kind, count: int, seed: int = SEED) -> Iterator[bytes]:
    """Yield the JSON of `count` decisions, the same for the same arguments, under ids of their own."""
    chance = _seeded(seed, kind.name)
    # The text that is not prose, so that the whole comes to the size.
    fixed = len(orjson.dumps(_decision(kind, chance, 0, 0)))
    for number in range(count):
        prose = max(1.0, chance.uniform(0.8, 1.2) * kind.size - fixed)
        payload = orjson.dumps(_decision(kind, chance, number, prose))
        yield _with_embedding(payload, chance) if kind.embedded else payload


def stamp(time: datetime) -> str:
    """Print a UTC time as long as any other: `stamped` replaces it in place."""
    return time.isoformat(timespec="microseconds")


def stamped(payload: bytes, time: datetime) -> bytes:
    """Give a decision of this module another `created_at`."""
    return b"".join((payload[:_STAMP_START], stamp(time).encode(), payload[_STAMP_END:]))


def renamed(originals: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` decisions, the originals over and over, under ids of their own for each `seed`."""
    chance = _seeded(seed, "renamed")
    for original in itertools.islice(itertools.cycle(originals), count):
        yield b"".join((original[:_ID_START], str(_uuid(chance)).encode(), original[_ID_END:]))


def outcomes(decisions: list[bytes], seed: int = SEED) -> Iterator[bytes]:
    """Yield the JSON of one outcome for each decision, in another order than theirs."""
    chance = _seeded(seed, "outcomes")
    for payload in chance.sample(decisions, len(decisions)):
        pnl = round(chance.gauss(4, 60), 2)
        yield orjson.dumps(
            {
                "decision_id": identity(payload),
                "outcome": "SUCCESS" if pnl > 0 else "FAILURE",
                "pnl": pnl,
                "timestamp": (FIRST + timedelta(days=1)).isoformat(),
                "source": "paper-broker",
            }
        )


def identity(payload: bytes) -> str:
    """The id of a decision that this module made: its first field."""
    return payload[_ID_START:_ID_END].decode()


_ID_START: Final = len('{"id":"')
_ID_END: Final = _ID_START + 36
_STAMP_START: Final = _ID_END + len('","created_at":"')
_STAMP_END: Final = _STAMP_START + len(stamp(FIRST))


def _uuid(chance: random.Random) -> uuid.UUID:
    return uuid.UUID(int=chance.getrandbits(128), version=4)


def _decision(kind: Kind, chance: random.Random, number: int, prose: float) -> dict[str, Any]:
    symbol, agent, action = chance.choice(SYMBOLS), chance.choice(AGENTS), chance.choice(_ACTIONS)
    confidence, price = round(chance.uniform(0.35, 0.98), 2), round(chance.uniform(20, 900), 2)
    prompt = f"You are the {agent} agent. Decide on {symbol} at {price}. {_prose(chance, prose * 0.65)}"
    reason = _prose(chance, prose * 0.35)
    if chance.random() < 0.5:
        response = orjson.dumps({"action": action, "confidence": confidence, "reasoning": reason}).decode()
    else:
        response = f"{action} {symbol} with confidence {confidence}. {reason}"
    return {
        "id": str(_uuid(chance)),
        "created_at": stamp(FIRST + timedelta(milliseconds=250 * number)),
        "session_id": str(chance.choice(SESSIONS)),
        "agent_name": agent,
        "decision_type": chance.choices(_TYPES, (70, 15, 10, 5))[0],
        "symbol": symbol,
        "action": action,
        "model": chance.choice(MODELS),
        "confidence": confidence,
        "tokens_used": chance.randrange(300, 6_000),
        "latency_ms": chance.randrange(200, 9_000),
        **({"cost_usd": round(chance.uniform(0.0004, 0.09), 6)} if chance.random() < 0.8 else {}),
        "context": {
            **{name: round(chance.gauss(50, 25), 4) for name in _INDICATORS[: kind.indicators]},
            "regime": chance.choice(("trend", "range", "volatile")),
        },
        "prompt": prompt,
        "response": response,
    }


def _with_embedding(payload: bytes, chance: random.Random) -> bytes:
    numbers = ",".join(chance.choices(_NUMBERS, k=DIMENSIONS)).encode()
    return b'%s,"embedding_model":"text-embed-3","prompt_embedding":[%s]}' % (payload[:-1], numbers)


# Drawn from ready text: printing 1,536 floats for each row would take longer than storing it. The length of
# the whole is near 1, as an embedding's is.
_NUMBERS: Final = [f"{_constants.gauss(0, 1536**-0.5):.8f}" for _ in range(20_000)]


def _prose(chance: random.Random, size: float) -> str:
    """Sentences that come to about so many characters."""
    sentences, length = [], 0.0
    while length < size:
        sentence = chance.choice(_SENTENCES)
        sentences.append(sentence)
        length += len(sentence) + 1
    text = " ".join(sentences)
    # Cut so that sizes are as asked for on average, not a sentence too long.
    return text[: max(1, round(size))]


def _sentence(chance: random.Random) -> str:
    words = chance.choices(_WORDS, _WEIGHTS, k=chance.randrange(7, 19))
    if chance.random() < 0.4:
        words.insert(chance.randrange(len(words)), f"{chance.uniform(0, 500):.2f}")
    return f"{' '.join(words).capitalize()}."


_VOCABULARY: Final = (
    "the of and to in a is that for it as with on by at from this be has was which an are its but above "
    "below price volume trend support resistance momentum signal market risk stop target entry exit "
    "position size breakout reversal range average moving relative strength index divergence bullish "
    "bearish overbought oversold volatility spread liquidity order flow session open close high low "
    "yesterday today week month earnings guidance revenue margin inflation rates yield curve dollar "
    "sector rotation correlation hedge exposure drawdown sharpe profit loss ratio confidence probability "
    "scenario catalyst headline sentiment analyst upgrade downgrade buyback dividend supply demand "
    "inventory production futures options implied skew gamma open-interest short squeeze accumulation "
    "distribution consolidation channel triangle flag pullback retracement fibonacci pivot gap fill wick "
    "candle body shadow engulfing doji hammer confirmation invalidation horizon intraday swing overnight "
    "weekend holiday auction imbalance slippage commission because therefore however although while "
    "unless until after before during despite given considering expect suggest indicate remain hold "
    "reduce increase add trim wait enter scale watch monitor avoid prefer likely unlikely strong weak "
    "mixed neutral positive negative recent previous next current daily hourly quarterly significant "
    "modest sharp gradual sustained failed tested broken held rejected absorbed traders institutions "
    "retail buyers sellers funds desks algorithms model evidence history analogue regime shift stable "
    "unstable compressing expanding accelerating fading turning crossing approaching leaving level zone"
)
_WORDS: Final = _VOCABULARY.split()
_WEIGHTS: Final = [(rank + 2) ** -1.35 for rank in range(len(_WORDS))]
_SENTENCES: Final = [_sentence(_constants) for _ in range(5_000)]
