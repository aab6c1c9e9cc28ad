"""One run of the benchmark: what was asked for, and what has been found so far."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from msgspec import Struct, field

from tests.bench.figures import Spread
from tests.bench.rows import DIMENSIONS
from tests.bench.stage import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.bench.yardstick import Drained


class Goal(Struct, frozen=True):
    """A figure to reach and one to aim at; `least`: more is better."""

    reach: float
    aim: float
    least: bool = True

    def met(self, figure: float) -> str:
        """`aim`, `reach`, or `missed`."""
        for name, bound in (("aim", self.aim), ("reach", self.reach)):
            if figure >= bound if self.least else figure <= bound:
                return name
        return "missed"


class Line(Struct, frozen=True):
    """A line of the report: a measure, its figure in words, and what its goal judges, if it has one."""

    measure: str
    figure: str
    judged: Spread | None = None
    goal: Goal | None = None


class Result(Struct):
    """What a case has found: raw figures, one record a run, and the lines that sum them up."""

    records: list[dict[str, Any]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def record(self, drained: Drained, **about: Any) -> None:
        """Keep a run's raw figures."""
        self.records.append(
            {**about, "messages": drained.messages, "seconds": drained.seconds, "cpu": drained.cpu}
        )


class Bench(Struct):
    """How large and how often; `kind` and `contestant` choose by a part of the name; `servers` were used."""

    rounds: int = 5
    rows: int = 60_000
    scale: float = 1.0
    kind: str = ""
    contestant: str = ""
    servers: dict[str, str] = field(default_factory=dict)

    def scaled(self, count: int) -> int:
        """A size that the scale makes smaller or larger."""
        return max(1, round(count * self.scale))

    def say(self, text: str) -> None:
        """Tell whoever waits how far it is."""
        typer.echo(text, err=True)

    @contextlib.asynccontextmanager
    async def stage(
        self, settings: Mapping[str, str] | None = None, dimensions: int = DIMENSIONS
    ) -> AsyncIterator[Stage]:
        """Have servers of its own for a block; their data is gone afterwards."""
        with _folder() as folder:
            async with Stage(folder, dimensions).running(settings) as stage:
                self.servers |= await stage.about()
                yield stage


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tracker-bench-"))
    folder.chmod(0o755)  # PostgreSQL runs as a user of its own when root runs this
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
