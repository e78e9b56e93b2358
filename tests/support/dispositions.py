"""Programs that a test sends signals to start as a person's terminal starts them, whatever this process ignores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: `./scripts/nox &` in a script, and `nohup`, have their children ignore some of these.
SIGNALS = "INT,TERM,HUP"


def by_default(argv: Sequence[str | Path]) -> list[str]:
    """The same program with the default action for SIGNALS; it keeps the number of its process (env of coreutils 8.31)."""
    return ["env", f"--default-signal={SIGNALS}", *map(str, argv)]


def ignoring(argv: Sequence[str | Path], signals: str) -> list[str]:
    """The same program, started to ignore these, and none of the others of SIGNALS."""
    return ["env", f"--default-signal={SIGNALS}", f"--ignore-signal={signals}", *map(str, argv)]
