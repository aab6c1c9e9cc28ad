"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.run TARGET [libFuzzer's arguments]`.

`make fuzz` gathers new inputs under .cache/fuzz. Those that reach something new are kept with
`python -m tests.fuzz.run TARGET -merge=1 tests/fuzz/corpus/TARGET .cache/fuzz/TARGET`, then given a name.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["tracker_daemon", "json"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's arguments, a failure or the user end it."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"python -m tests.fuzz.run {{{','.join(TARGETS)}}} [libFuzzer's arguments]")
    _, name, *arguments = sys.argv
    # libFuzzer starts itself anew for -merge and -fork, with the first argument as a shell's command.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.run {name}", *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
