"""The embedded registry: Debian's docker-registry on 127.0.0.1, a process that outlives us and data that outlive it."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shipyard import console, ports, processes, quantities, signals
from shipyard.engine import lock, packages
from shipyard.engine.types import home
from shipyard.errors import AccessDenied, ConfigError, RegistryFailed
from shipyard.machine import replace
from shipyard.models import Fault
from shipyard.registry import Registry
from shipyard.run import detach, end

if TYPE_CHECKING:
    from subprocess import Popen

#: The variable that moves its port, and the port that docker's own documentation gives a local registry.
PORT = "SHIPYARD_REGISTRY_PORT"
_PORT = 5000
#: Seconds until it must answer (0.1 when all is well), and seconds that it gets to end before it is killed.
_START, _STOP = 20.0, 10.0
#: Seconds after which one that runs and does not answer hangs, and seconds that such a one gets to end.
_SILENCE, _STOP_SILENT = 3.0, 1.0
#: Bytes after which its log is put aside when it starts; one older log is kept.
_LOG = 64 * 1024 * 1024
#: Its log is its access log too: each "response completed" has method, path and status. The variables REGISTRY_* would
#: override this file, so it never sees them.
_CONFIG = """\
version: 0.1
log: {{accesslog: {{disabled: true}}, formatter: json, level: info}}
storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", secret: {secret}}}
"""


@dataclass(frozen=True)
class Status:
    """What ``registry.status`` shows. ``state`` is running, silent (a process that does not answer) or stopped."""

    state: str
    address: str
    pid: int | None
    data: str
    log: str


@dataclass(frozen=True)
class _Process:
    """A process by its number and its start in clock ticks since boot: a recycled number has another start."""

    pid: int
    started: int
    port: int


def address() -> str:
    """Where it is, or would be: ``127.0.0.1:PORT``. Raises ConfigError when the variable is no port."""
    return f"127.0.0.1:{_wanted()}"


def log() -> Path:
    """Its log, one JSON document a line."""
    return _folder() / "registry.log"


def status() -> Status:
    """Whether it runs; starts nothing."""
    found = _running()
    where = f"127.0.0.1:{found.port}" if found else address()
    state = "stopped" if found is None else "running" if _answers(where) else "silent"
    return Status(state, where, found.pid if found else None, str(_folder() / "data"), str(log()))


def up() -> Status:
    """Start it unless it runs, and return when it answers.

    Raises PortInUse naming who has the port, and RegistryFailed with the end of its log when it does not start.
    """
    program = _program()
    with lock("starting the registry", _folder() / "lock"):
        if found := _running():
            _refuse_move(found)
            if _answers(address(), _SILENCE):
                console.step(f"the registry runs already at {address()} (process {found.pid})")
                return status()
            console.warn(f"the registry (process {found.pid}) does not answer; it is started anew")
            _end(found, _STOP_SILENT)
        ports.check([quantities.Published("registry", "127.0.0.1", _wanted(), PORT)], {})
        try:
            with signals.held():  # until its number is known to the next command
                process = _start(program)
        except OSError as problem:
            msg = f"the registry cannot be started below {_folder()}: {problem.strerror} ({problem.filename})"
            raise RegistryFailed(msg) from problem
        _await(process)
    console.step(f"started a registry at {address()}; `invoke registry.down` stops it, its data stay")
    return status()


def down() -> bool:
    """Stop it; its data stay. False when none was running."""
    with lock("stopping the registry", _folder() / "lock"):
        found = _running()
        if found:
            _end(found)
        _pid_file().unlink(missing_ok=True)
    return found is not None


def _program() -> Path:
    if not packages.folder().exists():
        with lock("unpacking the registry"):
            packages.ensure()
    return packages.binaries() / "docker-registry"


def _folder() -> Path:
    return home() / "registry"


def _pid_file() -> Path:
    return _folder() / "process.json"


def _wanted() -> int:
    text = os.environ.get(PORT) or str(_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ConfigError([Fault(PORT, f"{text!r} is no port", "give a number from 1 to 65535")])
    return int(text)


def _refuse_move(found: _Process) -> None:
    if found.port != _wanted():
        msg = f"the registry runs at 127.0.0.1:{found.port}, not {address()}; run `invoke registry.down` to move it"
        raise RegistryFailed(msg)


def _start(program: Path) -> Popen[bytes]:
    folder, secret = _folder(), _folder() / "secret"
    (folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
    if not secret.exists():
        replace(secret, os.urandom(32).hex(), 0o600)
    if log().exists() and log().stat().st_size > _LOG:
        log().replace(log().with_suffix(".log.1"))
    config = folder / "config.yml"
    # The secret signs the state of uploads: with the same one they survive a restart.
    text = _CONFIG.format(data=json.dumps(str(folder / "data")), port=_wanted(), secret=secret.read_text())
    replace(config, text, 0o600)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "OTEL_"))}
    process = detach([str(program), "serve", str(config)], log(), env=env, cwd=folder)
    started = processes.started(process.pid)
    if started is not None:  # else it ended at once
        replace(_pid_file(), json.dumps({"pid": process.pid, "started": started, "port": _wanted()}) + "\n")
    return process


def _await(process: Popen[bytes]) -> None:
    deadline = time.monotonic() + _START
    try:
        while not _answers(address()):
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"the registry at {address()} did not start; the end of {log()}:"
                raise RegistryFailed(msg, log().read_text(errors="replace").splitlines()[-5:])
            time.sleep(0.02)
    except BaseException:
        end(process)
        raise


def _answers(where: str, patience: float = 0) -> bool:
    try:
        Registry(where, patience=patience).ping()
    except AccessDenied:
        return True
    except RegistryFailed:
        return False
    return True


def _running() -> _Process | None:
    """Our registry, if it still runs."""
    try:
        found = _Process(**json.loads(_pid_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if _alive(found) else None


def _alive(process: _Process) -> bool:
    started = processes.started(process.pid)
    return started is not None and started == process.started


def _end(found: _Process, grace: float = _STOP) -> None:
    deadline, order = time.monotonic() + grace, signal.SIGTERM
    while _alive(found):
        with suppress(ProcessLookupError):
            os.kill(found.pid, order)
        order = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        time.sleep(0.02)
