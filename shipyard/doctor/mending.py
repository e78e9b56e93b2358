"""What ``--fix`` does: what is missing and can be made. It removes nothing, and installs nothing into the system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shipyard import bases, console
from shipyard import engine as engines
from shipyard.doctor import secrets
from shipyard.doctor.patient import Patient
from shipyard.engine import lock, packages
from shipyard.errors import ShipyardError

#: In this order: a base image needs an engine, which needs its programs.
FIXES = ("tools", "engine", "base", "secrets")


def mend(patient: Patient, wanted: Iterable[str]) -> list[str]:
    """Do all of ``wanted``, as far as each can be done, and say what was done."""
    done, asked = list[str](), set(wanted)
    for name in FIXES:
        if name in asked:
            try:
                for line in _mend(patient, name):
                    console.step(line)
                    done.append(line)
            except (ShipyardError, OSError) as failed:
                console.warn(f"{name}: {failed}")
    return done


def _mend(patient: Patient, name: str) -> Iterator[str]:
    if name == "tools":
        with lock("unpacking for invoke doctor"):
            packages.ensure()
        yield f"unpacked what was missing into {packages.folder()}"
    elif name == "engine":
        engines.up()
        yield f"started an engine ({engines.status().version})"
    elif name == "base" and patient.project:
        found = bases.ensure(engines.find(), patient.project.base)
        yield f"{patient.project.base.image} is {found.reference}"
    elif name == "secrets" and patient.project:
        yield from secrets.mend(patient.project)
