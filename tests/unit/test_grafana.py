"""The dashboards are what Grafana reads: its own models lose nothing, its rules of layout and names hold."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.grafana import FOLDER, NAMES, dashboard, targets, variables

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = 24
DATA_SOURCES = {"decisions": "postgres", "pipeline": "prometheus"}

pytestmark = pytest.mark.parametrize("name", NAMES)


def lost(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where theirs lacks what ours has, or has it otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(*pair, f"{path}[{index}]")
    elif ours != theirs:
        yield path


def test_grafanas_own_models_lose_nothing_of_it(name: str) -> None:
    """A misspelt key would be dropped by them; an unknown word of a closed set is refused."""
    register_default_plugins()
    ours = dashboard(name)
    theirs = json.loads(json.dumps(Dashboard.from_json(ours), cls=JSONEncoder))
    assert list(lost(ours, theirs)) == []


def test_it_shows_a_day_and_keeps_itself_fresh(name: str) -> None:
    found = dashboard(name)
    assert (found["time"], found["refresh"]) == ({"from": "now-24h", "to": "now"}, "30s")
    assert found["uid"] == f"tracker-{name}"


def test_panels_have_ids_and_titles_of_their_own_and_say_when_to_worry(name: str) -> None:
    panels = dashboard(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in panels)


def test_panels_stay_on_the_grid_and_off_each_other(name: str) -> None:
    cells = [
        cell
        for panel in dashboard(name)["panels"]
        for place in [panel["gridPos"]]
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < COLUMNS


def test_every_query_goes_to_the_data_source_that_is_provisioned(name: str) -> None:
    uids = re.findall(r'"uid": "(\w+)"', (FOLDER / f"{name}.json").read_text("utf-8"))
    assert set(uids) == {DATA_SOURCES[name]}
    assert all("datasource" in panel for panel in dashboard(name)["panels"])


def test_every_variable_that_is_used_exists_and_is_used(name: str) -> None:
    used = {
        found
        for _, target in targets(name)
        for found in re.findall(r"\$\{?(\w+)", target.get("rawSql", target.get("expr")))
        if not found.startswith("__")
    }
    assert used == {variable["name"] for variable in variables(name)}


def test_every_panel_has_a_unit_that_grafana_knows(name: str) -> None:
    known = {get_args(unit)[0] for word, unit in units.__annotations__.items() if word[0].isupper()}
    for panel in dashboard(name)["panels"]:
        config = panel["fieldConfig"]
        properties = [each for override in config["overrides"] for each in override["properties"]]
        chosen = {each["value"] for each in properties if each["id"] == "unit"}
        assert {config["defaults"]["unit"], *chosen} <= known
