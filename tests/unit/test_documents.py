"""What the documents say agrees with the files that they lead to, and with the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracker_daemon.config import Settings, load
from tracker_daemon.messages import REASONS

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"


def prose(document: Path) -> str:
    """Its text without the fenced examples."""
    return re.sub(r"(?ms)^ *```.*?^ *```", "", document.read_text("utf-8"))


def anchors(document: Path) -> set[str]:
    """The names by which its headings are found, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(document))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document", [*TOP.glob("*.md"), *DEPLOY.glob("*.md")], ids=lambda path: str(path.relative_to(TOP))
)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", prose(document)):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_table_of_settings_is_the_programs() -> None:
    """Every setting, in the program's order, and as its default a text that would be read as that."""
    rows = re.findall(r"(?m)^\| `(TRACKER_\w+)` \| (?:`(.+?)`|.) \|", prose(DEPLOY / "SETTINGS.md"))
    assert [name for name, _ in rows] == [name for name, _ in Settings().listing()]
    assert load(environ=dict(rows)) == Settings()


def test_every_reason_of_dead_letters_is_named() -> None:
    reasons = re.search(r"(?s)Reasons: (.+?)\.", prose(DEPLOY / "OPERATING.md"))
    assert reasons
    assert re.findall(r"`(\w+)`", reasons[1]) == list(REASONS)
