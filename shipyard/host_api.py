"""The API as a process of the host (phase 1): its environment, its start, its end."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipyard import compose, console, dotenv, variants
from shipyard.engine import api
from shipyard.errors import EngineFailed, StackFailed
from shipyard.machine import replace
from shipyard.models import Project, Selection
from shipyard.overlays import SCALED
from shipyard.run import detach, end

if TYPE_CHECKING:
    from shipyard.engine import Engine

#: Seconds until it must accept requests.
WAIT = 30.0
#: Seconds that its open requests get at the end: ten minutes of drain and a little more, as in compose.yaml.
STOP = 610.0
#: Seconds without an answer after which it hangs and is ended at once.
SILENCE = 20.0
#: Lines of .env that begin so count for the API on the host alone: HOST_UPSTREAM_OPENAI_BASE_URL.
PREFIX = "HOST_"
#: The port of a model server, in its container and of one that the host has.
OLLAMA = 11434
#: `struct ucred` of <sys/socket.h>: process, user, group.
_PEER = "3i"


def place(project: Project) -> Path:
    """The socket that it listens at; its folder is mounted into the balancer."""
    return project.state / "api" / "api.sock"


def log(project: Project) -> Path:
    """Where it writes when ``start`` started it."""
    return project.state / "host-api.log"


def environment(project: Project, containers: Mapping[str, Any], ports: Mapping[int, int]) -> dict[str, str]:
    """What ``python -m llm_call.api`` needs on the host, from what its container is given.

    ``containers`` is the environment of that service, ``ports`` maps ports in containers to those of 127.0.0.1; without
    one for Ollama it is the host's own that is asked.
    """
    found = {name: "" if value is None else str(value) for name, value in containers.items()}
    found = {name: value.replace("/run/secrets/", f"{project.root}/secrets/api/") for name, value in found.items()}
    return {
        **found,
        "PYTHONPATH": str(project.root / "src"),
        "LLM_CALL_MODELS": str(project.root / "config/models.toml"),
        "LLM_CALL_SOCKET": str(place(project)),
        "REDIS_URL": f"redis://127.0.0.1:{ports[6379]}/0",
        "UPSTREAM_CLAUDE_PROXY_BASE_URL": f"http://127.0.0.1:{ports[3010]}/v1",
        "UPSTREAM_OLLAMA_BASE_URL": f"http://127.0.0.1:{ports.get(OLLAMA, OLLAMA)}/v1",
    }


def write(project: Project, engine: Engine, selection: Selection) -> Path:
    """Write .shipyard/host.env for a shell to read. Returns its path."""
    config = compose.config(compose.client(project, engine, selection, profiles=("container",)))
    ports = {int(each["target"]): int(each["published"]) for each in config["services"]["debug-ports"]["ports"]}
    if "ollama" not in config["services"]:
        ports.pop(OLLAMA, None)
    settings = dotenv.write(project)
    found = environment(project, config["services"][SCALED]["environment"], ports)
    found["LLM_CALL_MODELS_FOLDER"] = str(variants.folder(project, {**settings, **os.environ}))
    own = {name.removeprefix(PREFIX): value for name, value in settings.items() if name.startswith(PREFIX)}
    lines = [f"{name}={shlex.quote(value)}" for name, value in sorted({**found, **own}.items())]
    path = variables(project)
    replace(path, "# For the API on the host: set -a; . .shipyard/host.env; set +a\n" + "\n".join(lines) + "\n")
    return path


def variables(project: Project) -> Path:
    """Its environment, for a shell to read."""
    return project.state / "host.env"


def process(project: Project) -> int | None:
    """The process that listens at the socket, whoever started it; None when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.settimeout(1)
        probe.connect(str(place(project)))
        found = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_PEER))
        return int(struct.unpack(_PEER, found)[0])
    return None


def accepts(project: Project) -> bool:
    """Whether it takes requests: the socket is there earlier."""
    return _answers(project) == "accepting"


def _answers(project: Project) -> str:
    """What it says of itself; nothing when it does not answer."""
    try:
        found = api.get(f"unix://{place(project)}", "/health/accepting", 2) or {"status": "draining"}
    except EngineFailed:
        return ""
    return str(found.get("status"))


def start(project: Project) -> None:
    """Start it in the background, unless it runs, with what ``write`` wrote, as a person would; return when it accepts
    requests. Raises StackFailed."""
    if number := process(project):
        console.step(f"{SCALED} runs on the host already (process {number})")
        return
    place(project).parent.mkdir(parents=True, exist_ok=True)
    given = {**os.environ, **_parse(variables(project))}
    begun = detach([sys.executable, "-m", "llm_call.api"], log(project), env=given, cwd=project.root)
    replace(_pid_file(project), str(begun.pid))
    deadline = time.monotonic() + WAIT
    try:
        while not accepts(project):
            if begun.poll() is not None or time.monotonic() > deadline:
                tail = "\n    ".join(log(project).read_text(errors="replace").splitlines()[-8:])
                msg = f"{SCALED} on the host did not start; the end of {log(project)}:\n    {tail}"
                raise StackFailed(msg)
            time.sleep(0.05)
    except BaseException:
        end(begun)
        raise
    console.step(f"{SCALED} runs on the host (process {begun.pid}, log in {log(project).relative_to(project.root)})")


def stop(project: Project) -> None:
    """End the one that ``start`` started and wait for it; another one loses its place at the balancer and is named."""
    number = process(project)
    ours = _ours(project)
    if ours:
        console.step(f"stopping {SCALED} on the host (process {ours}); it ends its open requests first")
        _order(ours, signal.SIGTERM)
        deadline, heard = time.monotonic() + STOP, time.monotonic()
        while _ours(project):
            if _answers(project):
                heard = time.monotonic()
            if time.monotonic() > min(deadline, heard + SILENCE):
                _order(ours, signal.SIGKILL)
            time.sleep(0.1)
    _pid_file(project).unlink(missing_ok=True)
    if number and number != ours:
        place(project).unlink(missing_ok=True)
        console.warn(f"{SCALED} on the host (process {number}) gets no more requests; you started it, so stop it")


def _order(number: int, order: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, order)


def _ours(project: Project) -> int | None:
    """The process that ``start`` started, if it still runs; a recycled number of another program does not count."""
    try:
        number = int(_pid_file(project).read_text())
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        same = Path(f"/proc/{number}/cwd").resolve() == project.root.resolve()  # a zombie has none
    except (OSError, ValueError):
        return None
    return number if same and b"llm_call.api" in words else None


def _parse(env: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in env.read_text().splitlines() if not line.startswith("#"))
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def _pid_file(project: Project) -> Path:
    return project.state / "host-api.pid"
