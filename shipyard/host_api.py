"""The API as a process of the host (phase 1): its environment, its start, its end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipyard import compose, console, dotenv, host_started, signals, variants
from shipyard.engine import api
from shipyard.errors import EngineFailed, StackFailed
from shipyard.machine import replace
from shipyard.models import Fault, Project, Selection
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
#: Seconds after which nobody is on the way to a socket that has lost its place: the balancer's checks take one at most
#: (docker/balancer/haproxy.cfg), and one that hears of the old one's end would leave the new one alone for a moment.
SETTLED = 1.2
#: Lines of .env that begin so count for the API on the host alone: HOST_UPSTREAM_OPENAI_BASE_URL.
PREFIX = "HOST_"
#: The llama-server of this machine that serves its models local/NAME.
PROGRAM = "HOST_LLM_CALL_LLAMA_SERVER"
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


def faults(settings: Mapping[str, str]) -> list[Fault]:
    """What is wrong in the lines of .env for the API on the host; nothing has to run for that."""
    value = settings.get(PROGRAM, "")
    path, place = Path(value), f".env: {PROGRAM}"
    if not value:
        return []
    if "/" not in value:
        hint = "install it, or write the absolute path of a llama-server"
        return [] if shutil.which(value) else [Fault(place, f'there is no program "{value}" on PATH', hint)]
    if not path.is_absolute():
        return [Fault(place, f'"{value}" is no absolute path', "write for example /usr/local/bin/llama-server")]
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        return [Fault(place, f"{value} {what}", "write the path of a llama-server, or leave the line out")]
    return [] if os.access(path, os.X_OK) else [Fault(place, f"{value} is not executable", f"chmod +x {value}")]


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
    return _listening(place(project))


def _listening(path: Path) -> int | None:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.settimeout(1)
        probe.connect(str(path))
        found = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_PEER))
        return int(struct.unpack(_PEER, found)[0])
    return None


def _answers(path: Path) -> str:
    """What the one at a socket says of itself; nothing when it does not answer."""
    try:
        found = api.get(f"unix://{path}", "/health/accepting", 2) or {"status": "draining"}
    except EngineFailed:
        return ""
    return str(found.get("status"))


def start(project: Project) -> None:
    """Have the one that is asked for serve: start it, or exchange the one that runs. Raises StackFailed."""
    prepare(project)
    take_over(project)


def prepare(project: Project) -> int:
    """Start what is asked for in the background, with what ``write`` wrote, as a person would; return when it accepts
    requests, with how many instances the balancer has more by it.

    One that runs and is the same is left alone. Beside one that is another, the new one waits at a socket of its own until
    ``take_over`` or ``withdraw``. Raises StackFailed; then what ran before serves.
    """
    environment = _parse(variables(project))
    wanted, number, mine = host_started.asked(project, environment), process(project), _ours(project)
    for left in sorted(mine.keys() - {number}):
        _finish(project, left)  # an earlier command was killed between two of its steps
    if number is None:
        _begin(project, environment, wanted, place(project))
        return 1
    if number not in mine:
        console.step(f"{SCALED} runs on the host already (process {number})")
        _stray(number, environment)
    elif changed := host_started.differences(mine[number], wanted):
        console.step(f"starting the new {SCALED} beside the old one on the host: {_some(changed)} changed")
        _begin(project, environment, wanted, _beside(project))
    else:
        console.step(f"{SCALED} runs on the host already (process {number})")
    return 0


def take_over(project: Project) -> None:
    """Give the place to the one that ``prepare`` started beside the old one, which ends its open requests and goes."""
    new, old = _listening(_beside(project)), process(project)
    if new is None:
        return
    _last(project).unlink(missing_ok=True)
    if old:
        os.link(place(project), _last(project))  # so that it can still be asked whether it hangs
    _beside(project).replace(place(project))
    console.step(f"{SCALED} runs on the host (process {new}, log in {log(project).relative_to(project.root)})")
    if old and old in _ours(project):
        console.step(f"the old {SCALED} (process {old}) ends its open requests, at most ten minutes")
        time.sleep(SETTLED)
        _finish(project, old)
    _last(project).unlink(missing_ok=True)


def withdraw(project: Project) -> None:
    """End the one that ``prepare`` started beside the old one, if there is one."""
    new = _listening(_beside(project))
    if new and new in _ours(project):
        _finish(project, new)


def remind(project: Project) -> None:
    """Say so where the one that runs is not what is asked for by now, and nobody asked to start it."""
    environment, number = _parse(variables(project)), process(project)
    known = _ours(project).get(number or 0)
    if known and (changed := host_started.differences(known, host_started.asked(project, environment))):
        console.warn(f"process {number} has an earlier {_some(changed)}; `invoke host --api` exchanges it")
    elif number and not known:
        _stray(number, environment)


def _stray(number: int, environment: Mapping[str, str]) -> None:
    if stray := host_started.strays(number, environment):
        console.warn(f"process {number} has another {_some(stray)}; you started it, so start it anew for that")


def _begin(project: Project, environment: Mapping[str, str], what: host_started.Started, where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    given = {**os.environ, **environment, "LLM_CALL_SOCKET": str(where)}
    with signals.held():  # until its number is known to the next command
        begun = detach([sys.executable, "-m", "llm_call.api"], log(project), env=given, cwd=project.root)
        host_started.keep(project, {**_ours(project), begun.pid: what})
    deadline = time.monotonic() + WAIT
    try:
        while _answers(where) != "accepting":
            if begun.poll() is not None or time.monotonic() > deadline:
                tail = "\n    ".join(log(project).read_text(errors="replace").splitlines()[-8:])
                msg = f"{SCALED} on the host did not start; the end of {log(project)}:\n    {tail}"
                raise StackFailed(msg)
            time.sleep(0.05)
    except BaseException:
        end(begun)
        raise
    if where == place(project):
        console.step(
            f"{SCALED} runs on the host (process {begun.pid}, log in {log(project).relative_to(project.root)})"
        )


def stop(project: Project) -> None:
    """End those that were started here and wait for them; another one loses its place at the balancer and is named."""
    number, mine = process(project), _ours(project)
    for each in mine:
        console.step(f"stopping {SCALED} on the host (process {each}); it ends its open requests first")
        _finish(project, each)
    host_started.keep(project, {})
    if number and number not in mine:
        console.warn(f"{SCALED} on the host (process {number}) gets no more requests; you started it, so stop it")
    for path in _sockets(project):
        path.unlink(missing_ok=True)


def _finish(project: Project, number: int) -> None:
    """Let one end its open requests, and end it where it hangs."""
    where = next((path for path in _sockets(project) if _listening(path) == number), place(project))
    _order(number, signal.SIGTERM)
    deadline, heard = time.monotonic() + STOP, time.monotonic()
    while number in _ours(project):
        if _answers(where):
            heard = time.monotonic()
        if time.monotonic() > min(deadline, heard + SILENCE):
            _order(number, signal.SIGKILL)
        time.sleep(0.1)
    host_started.keep(project, _ours(project))


def _some(names: Sequence[str]) -> str:
    """The first few of them."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _order(number: int, order: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, order)


def _ours(project: Project) -> dict[int, host_started.Started]:
    """The processes that were started here and still run; a recycled number of another program does not count."""
    return {number: what for number, what in host_started.read(project).items() if _runs(project, number)}


def _runs(project: Project, number: int) -> bool:
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        same = Path(f"/proc/{number}/cwd").resolve() == project.root.resolve()  # a zombie has none
    except OSError:
        return False
    return same and b"llm_call.api" in words


def _parse(env: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in env.read_text().splitlines() if not line.startswith("#"))
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def _beside(project: Project) -> Path:
    """Where a new one listens as long as the old one serves."""
    return place(project).with_name("new.sock")


def _last(project: Project) -> Path:
    """Where an old one still answers that has lost its place."""
    return place(project).with_name("old.sock")


def _sockets(project: Project) -> tuple[Path, ...]:
    return place(project), _beside(project), _last(project)
