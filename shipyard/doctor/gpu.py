"""Looks at a GPU from inside a container, and at the model that should be on it."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from shipyard import bases, containers, dotenv, gpus
from shipyard.diagnosis import gpu as judge
from shipyard.diagnosis import gpu_choice
from shipyard.diagnosis.finding import Finding, skip, worst
from shipyard.doctor.patient import Patient
from shipyard.engine import api

#: Seconds in which a server says what it has loaded.
_PATIENCE = 3.0
#: Where a Compose file says which image Ollama's is by default.
_IMAGE = re.compile(r"\$\{OLLAMA_IMAGE:-([^}]+)\}")
#: What the image is called that can take Ollama's place (docker/images.toml).
_STAND_IN = "llm-call-local-llm:"
_ELSEWHERE = "the engine does not run on this machine"


class _Server(NamedTuple):
    """A service of the stack, its port in its container, and where it tells of its models by which statuses."""

    service: str
    port: int
    path: str
    answers: tuple[int, ...] = (200,)


_OLLAMA = _Server("ollama", 11434, "/api/ps")
#: 503 is the answer of one that is not ready, such as for want of its GPU.
_API = _Server("llm-call-api", 8001, "/health", (200, 503))


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
    """What those who may have models on a GPU say of them: Ollama, and each API whose image has CUDA."""
    found = [_asked(each, _OLLAMA, judge.model) for each in _running(patient, _OLLAMA.service)]
    apis = [
        each for each in _running(patient, _API.service) if each["Config"]["Image"].partition("@")[0].endswith("-cuda")
    ]
    found += [_asked(each, _API, judge.served) for each in apis]
    if not found:
        return skip("no Ollama of this checkout runs, and no API with CUDA; `invoke hybrid --gpu` starts the first")
    return worst(found)


def _asked(running: dict[str, Any], server: _Server, judgement: Callable[[dict[str, Any]], Finding]) -> Finding:
    if _STAND_IN in running["Config"]["Image"]:
        return skip("local-llm is in Ollama's place: its models run on the CPU")
    networks = (running["NetworkSettings"].get("Networks") or {}).values()
    # From this machine no way leads into a network without a gateway.
    address = next((each["IPAddress"] for each in networks if each.get("IPAddress") and each.get("Gateway")), "")
    try:
        return judgement(_document(address, server))
    except (OSError, ValueError, http.client.HTTPException) as problem:
        return skip(f"{running['Name'].lstrip('/')} cannot be asked at {address}:{server.port} ({problem})")


def _document(address: str, server: _Server) -> dict[str, Any]:
    """What it answers. Raises OSError, ValueError or HTTPException when that is no document of its own."""
    connection = http.client.HTTPConnection(address, server.port, timeout=_PATIENCE)
    try:
        connection.request("GET", server.path)
        response = connection.getresponse()
        if response.status not in server.answers:
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
