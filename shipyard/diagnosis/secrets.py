"""What is wrong with keys and passwords, from the reports of those who judge them."""

from __future__ import annotations

from collections.abc import Sequence

from shipyard.diagnosis.finding import Finding, fail, ok, skip, warn
from shipyard.models import Fault


def secrets(faults: Sequence[Fault], not_given: Sequence[str], rotating: Sequence[str], mendable: bool) -> Finding:
    """``mendable`` when what ``--fix`` does (make what is missing, take rights away) has something to do."""
    fix = "secrets" if mendable else ""
    if faults:
        return fail("; ".join(f"{each.place}: {each.problem}" for each in faults), *_hints(faults), fix=fix)
    if rotating:
        return warn("; ".join(rotating), "invoke secrets.rotate KIND --finish, once everybody has the new key")
    return ok("complete" + (f"; {len(not_given)} providers' keys are not given" if not_given else ""))


def _hints(faults: Sequence[Fault]) -> list[str]:
    return list(dict.fromkeys(each.hint or "invoke secrets.check" for each in faults))


def signing(faults: Sequence[Fault], *, there: bool, public: bool, mendable: bool) -> Finding:
    """``there``: a private key is named or lies in its place; ``public``: cosign.pub is there, to verify with."""
    if not there:
        verifies = "cosign.pub verifies releases; " if public else ""
        return skip(f"{verifies}no private key here, which only a release needs (`invoke signing.init` makes one)")
    if faults:
        return fail("; ".join(map(str, faults)), *_hints(faults), fix="secrets" if mendable else "")
    return ok("opens with its password, and the public key is its other half")
