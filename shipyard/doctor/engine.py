"""Looks at the engine, its clients and the base image."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipyard import bases
from shipyard.diagnosis import engine as judge
from shipyard.diagnosis import open_files as open_files_of
from shipyard.diagnosis import tools
from shipyard.diagnosis.finding import Finding, fail, ok
from shipyard.diagnosis.tools import Plugin
from shipyard.doctor.patient import Patient
from shipyard.engine import Engine, api, daemon, embedded, packages
from shipyard.errors import ToolMissing
from shipyard.run import run

#: Seconds for one call of the client; it asks each of its plugins.
_PATIENCE = 20.0


def project(patient: Patient) -> Finding:
    """docker/images.toml and VERSION."""
    if patient.faults:
        return fail("; ".join(map(str, patient.faults)), "correct these files")
    return ok(f"version {patient.known.version}, {len(patient.known.images)} images")


def engine(patient: Patient) -> Finding:
    """Whether one answers."""
    status = patient.status
    spoken = status.kind == "none" or api.speaks(status.host)
    wanted, obstacle = os.environ.get("DOCKER_HOST", ""), packages.obstacle()
    return judge.engine(judge.Reached(status.kind, status.host, status.version, wanted, obstacle, spoken))


def store(patient: Patient) -> Finding:
    """Its image store."""
    return judge.store(patient.info, patient.engine.host)


def isolation(patient: Patient) -> Finding:
    """Whether its bridges can be isolated."""
    return judge.isolation(patient.status.version)


def limits(patient: Patient) -> Finding:
    """What its kernel can limit."""
    return judge.limits(patient.info)


def settings(patient: Patient) -> Finding:
    """Settings that hold for all of it."""
    return judge.settings(patient.info, daemon.settings(patient.engine.host) if patient.local else {})


def open_files(patient: Patient) -> Finding:
    """How many files it may have open."""
    return open_files_of.judge(patient.status.open_files, patient.status.forwards, patient.status.kind)


def base(patient: Patient) -> Finding:
    """What builds start from."""
    found = bases.remembered(patient.engine, patient.known.base)
    present = bool(found) and api.image(patient.engine.host, found.reference if found else "") is not None
    return judge.base(patient.known.base.image, found.reference if found else "", present)


def client(patient: Patient) -> Finding:
    """The docker client."""
    try:
        return tools.client(_client(patient), patient.engine.docker)
    except ToolMissing:
        return tools.missing("the docker client", packages.obstacle())


def plugin(patient: Patient, wanted: Plugin) -> Finding:
    """One of its plugins."""
    return tools.plugin(wanted, _client(patient), packages.obstacle())


def _client(patient: Patient) -> Mapping[str, Any]:
    return patient.once("docker client", lambda: _ask(patient.engine))


def _ask(engine: Engine) -> Mapping[str, Any]:
    """What the client says of itself and its plugins, without asking the engine. Raises ToolMissing, CommandFailed."""
    with tempfile.TemporaryDirectory(prefix="shipyard-doctor-") as scratch:
        variables = engine.environment()
        if engine.config and not (engine.config / "config.json").exists():
            # Whoever uses the engine first writes it; until then the unpacked plugins are found this way.
            embedded.client_config(Path(scratch))
            variables["DOCKER_CONFIG"] = scratch
        argv = [engine.docker, "info", "--format", "{{json .ClientInfo}}"]
        found = run(argv, env=variables, timeout=_PATIENCE)
    try:
        said: dict[str, Any] = json.loads(found.stdout)
    except ValueError:
        return {}
    return said
