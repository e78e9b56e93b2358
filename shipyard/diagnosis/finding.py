"""What a check of `invoke doctor` comes to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True)
class Finding:
    """``state`` is one of the four above: warn is what works and should be known, fail what a verb needs and has not,
    skip what was not looked at, with the reason. ``mend`` holds commands or advice; ``fix`` names what ``--fix`` does.
    """

    state: str
    seen: str
    mend: tuple[str, ...] = ()
    fix: str = ""


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding(OK, seen)


def warn(seen: str, *mend: str, fix: str = "") -> Finding:
    """It works, and yet somebody should know."""
    return Finding(WARN, seen, mend, fix)


def fail(seen: str, *mend: str, fix: str = "") -> Finding:
    """A verb needs it, and it is not there or does not work."""
    return Finding(FAIL, seen, mend, fix)


def skip(reason: str) -> Finding:
    """It was not looked at."""
    return Finding(SKIP, reason)


def worst(findings: Iterable[Finding]) -> Finding:
    """Several findings as one: all that was seen, the worst state, and everything that mends those of it."""
    found = list(findings)
    state = max((each.state for each in found), key=(SKIP, OK, WARN, FAIL).index)
    bad = [each for each in found if each.state in (WARN, FAIL)]
    shown = bad or found
    mend = dict.fromkeys(line for each in bad for line in each.mend)
    return Finding(
        state,
        "; ".join(each.seen for each in shown),
        tuple(mend),
        " ".join(dict.fromkeys(each.fix for each in bad if each.fix)),
    )
