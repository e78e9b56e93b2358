"""Looks at a GPU from inside a container, and at the model that should be on it."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

from shipyard import bases, containers, dotenv, gpus
from shipyard.diagnosis import gpu as judge
from shipyard.diagnosis import gpu_choice
from shipyard.diagnosis.finding import Finding, skip, worst
from shipyard.doctor.patient import Patient
from shipyard.engine import api

#: Ollama's service, the port that it listens on in its container, and the seconds in which it says what it has loaded.
_SERVICE, _PORT, _PATIENCE = "ollama", 11434, 3.0
#: Where a Compose file says which image Ollama's is by default.
_IMAGE = re.compile(r"\$\{OLLAMA_IMAGE:-([^}]+)\}")
_ELSEWHERE = "the engine does not run on this machine"


def device(patient: Patient) -> Finding:
    """Of this machine, if containers run on it."""
    return gpus.device() if patient.local else skip(_ELSEWHERE)


def driver(_: Patient) -> Finding:
    """Its driver."""
    return gpus.driver()


def toolkit(_: Patient) -> Finding:
    """What gives it to containers."""
    return gpus.toolkit()


def engine(patient: Patient) -> Finding:
    """Whether the engine knows how, and has the one that the settings name."""
    cards = gpus.cards(patient.info, patient.settings) if patient.local else ()
    return judge.runtime(patient.info, patient.settings, cards)


def container(patient: Patient) -> Finding:
    """The containers of this checkout that were given one, and may have lost it; without any, one that lives for one
    question. Pulls nothing.
    """
    engine = patient.engine
    if running := [each for each in _running(patient) if each["HostConfig"].get("DeviceRequests")]:
        return worst([_inside(patient, each) for each in running])
    image = next((each for each in _images(patient) if api.image(engine.host, each)), None)
    if image is None:
        return skip("no image is here to look from; `invoke build`, then look again")
    given = gpu_choice.choose(patient.info, patient.settings).options()
    argv = [engine.docker, "run", "--rm", "--pull", "never", "--network", "none", *given]
    argv += ["--env", "NVIDIA_DRIVER_CAPABILITIES=utility", "--entrypoint", "nvidia-smi", image, "-L"]
    return judge.container(f"a container of {image}", gpus.said(argv, engine.environment()))


def _inside(patient: Patient, running: dict[str, Any]) -> Finding:
    argv = [patient.engine.docker, "exec", running["Id"], "nvidia-smi", "-L"]
    return judge.container(f"container {running['Name'].lstrip('/')}", gpus.said(argv, patient.engine.environment()))


def model(patient: Patient) -> Finding:
    """What Ollama says of the models that it has loaded."""
    running = next(iter(_running(patient, _SERVICE)), None)
    if running is None:
        return skip("no Ollama of this checkout runs; `invoke hybrid --gpu` starts one")
    networks = (running["NetworkSettings"].get("Networks") or {}).values()
    address = next((each["IPAddress"] for each in networks if each.get("IPAddress")), "")
    try:
        return judge.model(loaded(address, _PORT))
    except (OSError, ValueError, http.client.HTTPException) as problem:
        return skip(f"Ollama cannot be asked at {address}:{_PORT} ({problem})")


def loaded(address: str, port: int) -> dict[str, Any]:
    """Ollama's `GET /api/ps`. Raises OSError, ValueError or HTTPException when it does not answer so."""
    connection = http.client.HTTPConnection(address, port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/api/ps")
        response = connection.getresponse()
        if response.status != http.client.OK:
            msg = f"it answers {response.status}"
            raise ValueError(msg)
        found: dict[str, Any] = json.loads(response.read())
        return found
    finally:
        connection.close()


def _running(patient: Patient, service: str = "") -> list[dict[str, Any]]:
    """This checkout's containers that run, or those of one service, as the engine describes them."""
    every = containers.every(patient.engine, dotenv.project_name(patient.root), service)
    looked = (api.get(patient.engine.host, f"/containers/{each.id}/json") for each in every if each.running)
    return [each for each in looked if each]


def _images(patient: Patient) -> list[str]:
    """Images with a C library, which the driver's programs need; the first one that is there is taken."""
    files = sorted((patient.root / "compose").glob("*.yaml"))
    default = [name for file in files for name in _IMAGE.findall(patient.compose(file.name))]
    chosen = patient.settings.get("OLLAMA_IMAGE")
    found = [chosen] if chosen else default
    if patient.project:
        base = bases.remembered(patient.engine, patient.project.base)
        found += [base.reference] if base else []
        found += [f"{each.repository}:{patient.project.version}" for each in patient.project.images.values()]
    return found
