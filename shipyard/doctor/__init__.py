"""`invoke doctor`: everything that verbs need of this machine, what was seen of it, and what mends it.

`shipyard.diagnosis` knows what facts mean; the modules here gather them, and put right what is safe to put right.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from shipyard import console
from shipyard.diagnosis.finding import FAIL, OK, SKIP, WARN, Finding
from shipyard.doctor import patient
from shipyard.doctor.checks import examine
from shipyard.doctor.mending import mend
from shipyard.errors import Unhealthy


@dataclass(frozen=True)
class Report:
    """Each check's finding, what ``--fix`` did before, and how long looking took in seconds."""

    findings: dict[str, Finding]
    mended: tuple[str, ...]
    seconds: float


def visit(root: Path, *, fix: bool = False) -> Report:
    """Look at the machine and at the checkout at ``root``; with ``fix``, mend what can be and look again."""
    began = time.monotonic()
    seen = patient.look(root)
    found = examine(seen)
    fixes = {name for each in found.values() for name in each.fix.split()} if fix else set[str]()
    if not fixes:
        return Report(found, (), time.monotonic() - began)
    mended = mend(seen, fixes)
    began = time.monotonic()
    return Report(examine(patient.look(root)), tuple(mended), time.monotonic() - began)


def show(report: Report, *, json: bool) -> None:
    """Print it: one JSON document, or a line for each check with what mends it. Raises Unhealthy naming what fails."""
    failed = [name for name, each in report.findings.items() if each.state == FAIL]
    if json:
        console.document(_document(report, healthy=not failed))
    else:
        width = max(map(len, report.findings))
        for name, each in report.findings.items():
            console.result(f"{each.state:<4}  {name:<{width}}  {each.seen}")
            for line in each.mend:
                console.result(f"{'':<4}  {'':<{width}}  -> {line}")
    counted = [(state, sum(each.state == state for each in report.findings.values())) for state in (OK, WARN, SKIP)]
    others = ", ".join(f"{number} {state}" for state, number in counted)
    if failed:
        able = "" if report.mended or not _mendable(report) else "; `invoke doctor --fix` mends some of it"
        msg = f"{len(failed)} fail: {', '.join(failed)} ({others}){able}"
        raise Unhealthy(msg)
    console.step(f"nothing fails: {others} ({report.seconds:.1f} s)")


def _mendable(report: Report) -> bool:
    return any(each.fix for each in report.findings.values())


def _document(report: Report, *, healthy: bool) -> dict[str, object]:
    checks = [
        {"name": name, "state": each.state, "seen": each.seen, "mend": list(each.mend), "fixable": bool(each.fix)}
        for name, each in report.findings.items()
    ]
    seconds = round(report.seconds, 2)
    return {"healthy": healthy, "seconds": seconds, "mended": list(report.mended), "checks": checks}
