"""`python -m tests.sim`: all simulations, their figures as a table, and pictures under `.cache/sim/`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.sim import plots
from tests.sim.figures import FIGURES

FOLDER = Path(".cache/sim")


def main() -> int:
    """Run the tests of this folder, and show what they have seen; return their exit code."""
    code = pytest.main(["-q", "-n0", "-p", "no:cacheprovider", str(Path(__file__).parent)])
    width = max(len(figure.what) for figure in FIGURES)
    for what, value, least, most in FIGURES:
        sys.stdout.write(f"{what:<{width}} | {value:>10.4g} | {least:>8.4g} to {most:<8.4g}\n")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in plots.draw(FOLDER):
        sys.stdout.write(f"{path}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
