"""`deploy/*.lock` name every file that the image is made of by its hash, and nothing superfluous."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
BUILD = [
    line
    for line in (TOP / "deploy" / "build-requirements.in").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
SHIPS = PROJECT["project"]["dependencies"]
LOCKS = {
    "requirements.lock": SHIPS,
    "embeddings.lock": SHIPS + PROJECT["project"]["optional-dependencies"]["embeddings"],
    "learn.lock": SHIPS + PROJECT["project"]["optional-dependencies"]["learn"],
    "build-requirements.lock": BUILD,
}
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
STALE = "run `make lock`, then `make lint`, which brings .venv to what is locked"


class Entry(NamedTuple):
    """One locked version, and the hashes of its files."""

    requirement: Requirement
    hashes: list[str]


def entries(lock: str) -> list[Entry]:
    """Read a lock file: each entry is one line once its continuations are joined."""
    lines = (TOP / "deploy" / lock).read_text("utf-8").replace("\\\n", " ").splitlines()
    parted = [re.split(r"\s+--hash=", line.strip()) for line in lines if not re.match(r"\s*(#|$)", line)]
    return [Entry(Requirement(first), hashes) for first, *hashes in parted]


def locked(lock: str, environment: dict[str, str]) -> dict[str, str]:
    """The locked version of every package that is for this environment."""
    found = [entry.requirement for entry in entries(lock)]
    return {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in found
        if each.marker is None or each.marker.evaluate(environment)
    }


def needed(roots: Iterable[str], environment: dict[str, str]) -> Iterator[Requirement]:
    """Yield these requirements and those of the installed packages that they lead to."""
    waiting, seen = [(text, "") for text in roots], set()
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate(environment | {"extra": extra}):
            continue
        yield requirement
        for more in {"", *requirement.extras}:
            if (requirement.name, more) not in seen:
                seen.add((requirement.name, more))
                waiting += [(text, more) for text in requires(requirement.name) or ()]


@pytest.fixture(params=[(python, machine) for python in PYTHONS for machine in MACHINES], ids="-".join)
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """What markers ask for, on each Python and machine that the lock files are for."""
    python, machine = request.param
    here: dict[str, str] = {name: str(value) for name, value in default_environment().items()}
    return here | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_one_version_with_the_hashes_of_its_files(lock: str) -> None:
    assert entries(lock)
    for requirement, hashes in entries(lock):
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_no_entry_says_where_to_download(lock: str) -> None:
    """Where packages come from is up to whoever builds: the hashes tell whether they are the right ones."""
    assert not re.search(r"://|--(index|extra|find|trusted)|@ ", (TOP / "deploy" / lock).read_text("utf-8"))


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_locked_is_what_the_project_leads_to(lock: str, environment: dict[str, str]) -> None:
    versions = locked(lock, environment)
    reached = list(needed(LOCKS[lock], environment))
    assert {canonicalize_name(each.name) for each in reached} == versions.keys(), STALE
    for each in reached:
        assert each.specifier.contains(versions[canonicalize_name(each.name)]), f"{each}: {STALE}"


@pytest.mark.parametrize("extra", ["embeddings.lock", "learn.lock"])
def test_with_an_extra_nothing_ships_otherwise(extra: str) -> None:
    plain, more = (set(map(str, entries(lock))) for lock in ("requirements.lock", extra))
    assert plain < more


def test_the_daemons_wheel_is_built_with_what_is_locked() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(BUILD)


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_tested_is_what_ships(lock: str) -> None:
    versions = locked(lock, {name: str(value) for name, value in default_environment().items()})
    assert {name: version(name) for name in versions} == versions, STALE
