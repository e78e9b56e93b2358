"""Which engine is used: the one the user points at, else one that is there, else the embedded one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from shipyard import console
from shipyard.engine import api, embedded, files, packages
from shipyard.engine.lock import lock
from shipyard.engine.types import Engine, Status, home
from shipyard.errors import EngineMissing
from shipyard.run import run

_DEFAULT = "unix:///var/run/docker.sock"


def find() -> Engine:
    """A reachable engine, starting the embedded one if there is no other. Raises EngineMissing with what to install."""
    host = _reachable()
    if host is None:
        if not api.version(embedded.host()):
            up()
        return embedded.describe()
    if host == embedded.host():
        return embedded.describe()
    return _with_tools(host)


def up() -> None:
    """Make sure that an engine runs; a second start does nothing."""
    if _reachable() is not None:
        return
    if reason := packages.obstacle():
        raise EngineMissing(_advice(reason))
    with lock("engine.up"):
        embedded.up()


def down() -> bool:
    """Stop the embedded engine; one that we did not start is left alone. False when there was nothing to stop."""
    if not home().exists():
        return False
    with lock("engine.down"):
        return embedded.down()


def status() -> Status:
    """What is there, without starting anything."""
    try:
        host = _reachable()
    except EngineMissing as refused:
        return Status("none", "", "", str(refused))
    if host and host != embedded.host():
        detail = "found; the toolkit neither starts nor stops it"
        proxy = _proxy() if host.startswith("unix://") else None
        limit, by = (files.most(proxy), "docker-proxy") if proxy else (None, "")
        return Status("host", host, api.version(host) or "reachable", detail, limit, by)
    if found := embedded.version():
        number = embedded.pid()
        detail = f"pid {number}, data in {home()}, log {embedded.log()}"
        limit = files.most(number) if number else None
        return Status("embedded", embedded.host(), found, detail, limit, embedded.forwards())
    reason = packages.obstacle()
    return Status("none", "", "", _advice(reason) if reason else "`invoke engine.up` starts an embedded one")


def _proxy() -> int | None:
    """A docker-proxy of this machine that is not the embedded engine's."""
    return next(files.forwarders(other_than=embedded.pid()), None)


def _reachable() -> str | None:
    """The host of an engine that answers. DOCKER_HOST is an order: when it does not answer, that is an error."""
    if chosen := os.environ.get("DOCKER_HOST"):
        if _answers(chosen):
            return chosen
        msg = f"DOCKER_HOST={chosen} does not answer; start that engine, or unset DOCKER_HOST to use another one"
        raise EngineMissing(msg)
    context = _context()
    for host in dict.fromkeys((context or _DEFAULT, _DEFAULT)):
        if _answers(host):
            return host
    return embedded.host() if api.version(embedded.host()) else None


def _answers(host: str) -> bool:
    if api.speaks(host):
        return api.version(host, timeout=3.0) is not None
    docker = shutil.which("docker")
    return bool(docker) and run([str(docker), "--host", host, "version"], check=False, timeout=30).status == 0


def _context() -> str | None:
    """The host of the docker client's current context; its metadata lies below a folder named by a hash of its name."""
    folder = _user_config()
    try:
        name = os.environ.get("DOCKER_CONTEXT") or json.loads((folder / "config.json").read_text()).get(
            "currentContext"
        )
        if not name or name == "default":
            return None
        meta = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        return str(json.loads(meta.read_text())["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _user_config() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def look(host: str) -> Engine:
    """How ``find`` reaches an engine at ``host``, with what is there: nothing is started, unpacked or written.

    Where something had to be unpacked first, ``docker`` or ``config`` may not exist.
    """
    if host == embedded.host():
        return embedded.describe()
    docker, missing = _present()
    if docker and (not missing or not packages.folder().exists()):
        return Engine(host, docker, "host")
    return _unpacked(host, docker)


def _present() -> tuple[str | None, list[str]]:
    """The host's own client, and which of the plugins it lacks."""
    return shutil.which("docker"), [name for name in ("docker-buildx", "docker-compose") if not _plugin(name)]


def _with_tools(host: str) -> Engine:
    """A host engine with a client, buildx and Compose: the host's own, or the unpacked ones where one is missing."""
    docker, missing = _present()
    if docker and not missing:
        return Engine(host, docker, "host")
    if not packages.folder().exists():
        wanted = ", ".join(missing if docker else ["docker", *missing])
        if reason := packages.obstacle():
            msg = f"the engine at {host} answers, but {wanted} is missing and cannot be unpacked ({reason}); install it"
            raise EngineMissing(msg)
        console.step(f"the engine at {host} lacks {wanted}: taking it from Debian packages")
        with lock("unpacking plugins"):
            packages.ensure()
    found = _unpacked(host, docker)
    embedded.client_config(found.config or home(), extend=_user_config())
    return found


def _unpacked(host: str, docker: str | None) -> Engine:
    """A host engine with the unpacked plugins, and the unpacked client where it has none."""
    return Engine(host, docker or str(packages.binaries() / "docker"), "host", home() / "client-of-host")


def _plugin(name: str) -> bool:
    folders = (
        _user_config() / "cli-plugins",
        *(
            Path(root, "docker/cli-plugins")
            for root in ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
        ),
    )
    return any((folder / name).exists() for folder in folders)


def _advice(reason: str) -> str:
    return (
        f"no Docker engine is reachable, and none can be run here because {reason}.\n"
        "Install Docker Engine or Docker Desktop (version 28 or newer, with buildx and Compose), start it, and try again;\n"
        "or point DOCKER_HOST at an engine; or, on Debian or Ubuntu, run this as root to get an embedded one."
    )
