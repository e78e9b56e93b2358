"""Every check in its order, what it needs of the others, and all of them at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from shipyard.diagnosis import tools as known
from shipyard.diagnosis.finding import FAIL, SKIP, Finding, fail, skip
from shipyard.doctor import engine, gpu, machine, network, secrets, settings, tools
from shipyard.doctor.patient import Patient
from shipyard.errors import ShipyardError


@dataclass(frozen=True)
class Check:
    """One line of the table. It is skipped, with the reason, where one that it needs fails or was skipped."""

    name: str
    look: Callable[[Patient], Finding]
    needs: tuple[str, ...] = ()


#: In the order in which they are shown; a check stands below what it needs.
CHECKS = (
    Check("project", engine.project),
    Check("engine", engine.engine),
    Check("image store", engine.store, ("engine",)),
    Check("isolated bridges", engine.isolation, ("engine",)),
    Check("resource limits", engine.limits, ("engine",)),
    Check("engine settings", engine.settings, ("engine",)),
    Check("open files", engine.open_files, ("engine",)),
    Check("docker client", engine.client),
    Check("buildx", partial(engine.plugin, wanted=known.BUILDX), ("docker client",)),
    Check("compose", partial(engine.plugin, wanted=known.COMPOSE), ("docker client",)),
    Check("git", tools.git),
    Check("cosign", tools.cosign),
    Check("registry", tools.registry),
    Check("base image", engine.base, ("project", "engine")),
    Check("disk", machine.disk),
    Check("memory", machine.memory),
    Check("clock", machine.clock),
    Check("kernel", machine.kernel),
    Check("settings", settings.settings, ("project",)),
    Check("ports", network.published),
    Check("published port", network.reached, ("engine",)),
    Check("IPv6", network.ipv6),
    Check("certificates", network.trust),
    Check("secrets", secrets.stack, ("project", "git")),
    Check("signing key", secrets.signing, ("project", "cosign")),
    Check("package locks", machine.locks, ("project",)),
    Check("release at work", machine.at_work, ("project",)),
    Check("GPU device", gpu.device),
    Check("GPU driver", gpu.driver, ("GPU device",)),
    Check("GPU toolkit", gpu.toolkit, ("GPU driver",)),
    Check("GPU engine", gpu.engine, ("GPU toolkit", "engine")),
    Check("GPU container", gpu.container, ("GPU engine",)),
    Check("GPU model", gpu.model, ("GPU container",)),
)


def examine(patient: Patient, checks: Sequence[Check] = CHECKS) -> dict[str, Finding]:
    """The finding of each, by its name. Every one has a thread, so that none waits for what it does not need."""
    under_way: dict[str, Future[Finding]] = {}
    with ThreadPoolExecutor(len(checks)) as pool:
        for check in checks:
            under_way[check.name] = pool.submit(_one, check, patient, {name: under_way[name] for name in check.needs})
        return {name: each.result() for name, each in under_way.items()}


def _one(check: Check, patient: Patient, needed: dict[str, Future[Finding]]) -> Finding:
    for name, each in needed.items():
        found = each.result()
        if found.state == FAIL:
            return skip(f"needs {name}")
        if found.state == SKIP:
            return skip(found.seen)
    try:
        return check.look(patient)
    except (ShipyardError, OSError) as failed:
        return fail(f"cannot be looked at: {failed}", "see to that, and look again")
