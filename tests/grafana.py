"""The shipped Grafana dashboards, and their SQL as Grafana sends it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

FOLDER = Path(__file__).parents[1] / "deploy/grafana/dashboards"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
BUCKET_SECONDS = 86_400
"""What `$__interval` stands for."""


def dashboard(name: str) -> dict[str, Any]:
    """A dashboard as its file has it."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return found


def targets(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each query of a dashboard, with the title of its panel."""
    for panel in dashboard(name)["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target


def variables(name: str) -> list[dict[str, Any]]:
    """The variables of a dashboard."""
    found: list[dict[str, Any]] = dashboard(name).get("templating", {}).get("list", [])
    return found


def expand(
    sql: str, since: datetime, until: datetime, chosen: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Put in the time range and what is chosen in each variable of *Decisions*, as Grafana does; else All.

    Of All it puts in the variable's `allValue` as it is; of anything else strings in quotes, with commas.
    """
    for variable in variables("decisions"):
        values = (chosen or {}).get(variable["name"])
        quoted = ",".join("'" + value.replace("'", "''") + "'" for value in values or ())
        sql = sql.replace(f"${{{variable['name']}:sqlstring}}", quoted or variable["allValue"])
    between = rf"\1 BETWEEN '{since.isoformat()}' AND '{until.isoformat()}'"
    sql = re.sub(r"\$__timeFilter\((\w+)\)", between, sql)
    group = rf"floor(extract(epoch from \1)/{BUCKET_SECONDS})*{BUCKET_SECONDS}"
    sql = re.sub(r"\$__timeGroupAlias\((\w+), \$__interval\)", rf'{group} AS "time"', sql)
    sql = re.sub(r"\$__timeGroup\((\w+), \$__interval\)", group, sql)
    assert "$" not in sql, f"Grafana would send more than is expanded here: {sql}"
    return sql
