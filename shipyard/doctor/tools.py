"""Looks at git, cosign and the registry that releases go to."""

from __future__ import annotations

import os
import time

from shipyard import local_registry, ports, signing_keys
from shipyard.diagnosis import network, tools
from shipyard.diagnosis.finding import Finding, fail
from shipyard.doctor.patient import Patient
from shipyard.engine import packages
from shipyard.errors import AccessDenied, ConfigError, RegistryFailed, ToolMissing
from shipyard.registry import Registry
from shipyard.run import run

_PATIENCE = 20.0


def git(_: Patient) -> Finding:
    """The program."""
    try:
        return tools.git(run(["git", "--version"], timeout=_PATIENCE).stdout.strip())
    except ToolMissing:
        return tools.git("")


def cosign(_: Patient) -> Finding:
    """The one that is unpacked, or the one on PATH."""
    if not signing_keys.present():
        return tools.missing("cosign", packages.obstacle())
    program = signing_keys.program()
    found = run([program, "sign", "--help"], timeout=_PATIENCE, check=False)
    return tools.cosign(program, found.stdout + found.stderr)


def registry(_: Patient) -> Finding:
    """The one that SHIPYARD_REGISTRY names, else the embedded one. Nothing is written to it."""
    try:
        own = local_registry.address()
    except ConfigError as failed:
        return fail(str(failed), f"unset {local_registry.PORT}, or give a port")
    named = os.environ.get("SHIPYARD_REGISTRY", "").partition("/")[0]
    if named and named != own:
        return network.registry(_other(named))
    found = local_registry.status()
    if found.state == "stopped" and not packages.folder().exists():
        return tools.missing("the embedded registry", packages.obstacle())
    taken = ports.owner("127.0.0.1", int(own.rpartition(":")[2]), {}) if found.state == "stopped" else ""
    return network.registry(network.Registry(found.address, found.state, taken=taken))


def _other(host: str) -> network.Registry:
    try:
        clock = Registry(host, patience=0).ping()
    except (AccessDenied, RegistryFailed) as failed:
        return network.Registry(host, "other", problem=str(failed))
    return network.Registry(host, "other", drift=0.0 if clock is None else clock - time.time())
