"""Looks at ``.env`` as a start would: what no start accepts fails here, too."""

from __future__ import annotations

from collections.abc import Iterator

from shipyard import dotenv, host_api, variants
from shipyard.diagnosis import gpu_choice
from shipyard.diagnosis.finding import Finding, fail, ok, worst
from shipyard.doctor.patient import Patient
from shipyard.errors import ConfigError
from shipyard.models import Fault, Selection


def settings(patient: Patient) -> Finding:
    """The lines of ``.env``, and variables of the environment that stand above them."""
    try:
        text = dotenv.read(patient.root)
        found = dotenv.faults(text) or list(dict.fromkeys(_faults(patient, text)))
    except ConfigError as failed:
        found = list(failed.faults)
    if found:
        return worst(fail(f"{each.place}: {each.problem}", each.hint or "correct it") for each in found)
    return ok("a start accepts what .env says" if text else "no .env yet; the first start writes it")


def _faults(patient: Patient, text: str) -> Iterator[Fault]:
    without, with_gpu = (_refused(patient, add_ons) for add_ons in (tuple[str, ...](), ("gpu",)))
    yield from (each for each in without if each in with_gpu)  # what --gpu would mend is the command's matter
    yield from gpu_choice.faults(patient.settings)
    yield from host_api.faults(dotenv.parse(text))


def _refused(patient: Patient, add_ons: tuple[str, ...]) -> tuple[Fault, ...]:
    try:
        variants.check(patient.known, Selection("prod", add_ons), patient.settings, dotenv.filled(patient.known))
    except ConfigError as failed:
        return failed.faults
    return ()
