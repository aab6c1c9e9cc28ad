"""The desk decides as the demo's agents do by the same rules, and its outcomes are theirs."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from tracker_daemon.demo.desk import MODELS, Desk
from tracker_daemon.demo.market import load
from tracker_daemon.demo.script import Script

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_desk_decides_as_the_agents_whose_rules_it_has() -> None:
    script = [
        orjson.loads(each.payload) for each in Script(load(NOW), 400).messages() if each.kind == "decision"
    ]
    made = {(each["symbol"], each["timestamp"], each["model"]): each for each in script}
    desk = Desk(load(NOW), "desk", 50)
    assert len(desk.occasions) == len({occasion.key for occasion in desk.occasions}) == 50
    for occasion in desk.occasions:
        for model in MODELS:
            decision, outcome = desk.decide(occasion, model)
            alike = made[decision["symbol"], decision["timestamp"], model]
            for name in ("response", "confidence", "context", "decision_type"):
                assert decision[name] == alike[name]
            assert decision["agent_name"] == "desk"
            assert outcome["decision_id"] == decision["id"]
            assert outcome["timestamp"] > decision["timestamp"]
