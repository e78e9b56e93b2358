"""Looks at keys and passwords, and takes rights to them away that nobody needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from shipyard import secrets, secrets_check, signing_keys
from shipyard.diagnosis import secrets as judge
from shipyard.diagnosis.finding import Finding
from shipyard.doctor.patient import Patient
from shipyard.models import Fault, Project
from shipyard.secrets_access import INIT, SIGNING


def stack(patient: Patient) -> Finding:
    """What the services read, as `secrets.check` judges it."""
    report = secrets_check.check(patient.known)
    return judge.secrets(report.faults, report.not_given, report.rotating, _mendable(report.faults))


def signing(patient: Patient) -> Finding:
    """The key that signs releases."""
    project = patient.known
    key = signing_keys.private(project)
    there = signing_keys.keyless() or key.startswith("env://") or Path(key).exists()
    faults = signing_keys.faults(project) if there else ()
    return judge.signing(faults, there=there, public=signing_keys.public(project).exists(), mendable=_mendable(faults))


def _mendable(faults: Sequence[Fault]) -> bool:
    """Whether `secrets.init` or taking rights away mends one of them."""
    return any(each.hint in (INIT, secrets_check.MAKES) or each.hint.startswith("chmod ") for each in faults)


def mend(project: Project) -> Iterator[str]:
    """Make what is missing, let services read theirs, and take from others what they may not; says what it did."""
    made = secrets.init(project)
    if made.created:
        yield "made secrets/: " + ", ".join(made.created)
    if made.client_key:
        yield f"clients present the key in secrets/{secrets.CLIENT.plain}"
    place = secrets.folder(project)
    for path in [place, *sorted(place.rglob("*"))]:
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o7777
        kept = mode & ~_closed(path.relative_to(place), path.is_dir())
        if kept != mode:
            path.chmod(kept)
            yield f"secrets/{path.relative_to(place).as_posix()}: mode {mode:o} is {kept:o} now"


def _closed(name: Path, folder: bool) -> int:
    """The rights that others than the owner may never have."""
    private = name.parts[:1] == (SIGNING,) or name.as_posix() == secrets.CLIENT.plain
    return 0o077 if private and not folder else 0o022
