"""The embedded engine: a dockerd of our own, with its own socket, data and containerd, beside anything else on the host."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shipyard import console, processes
from shipyard.commands import engine as commands
from shipyard.diagnosis import open_files
from shipyard.engine import api, packages
from shipyard.engine.types import Engine, home
from shipyard.errors import EngineFailed
from shipyard.run import detach, run

if TYPE_CHECKING:
    from subprocess import Popen

#: Seconds dockerd gets to answer: 0.4 when all is well, more after a crash with many containers to restore.
START = 60.0
#: Seconds dockerd gets to stop its containers (each has 10 by default) before it is killed.
STOP = 60.0
#: Linux allows 108 bytes for the path of a unix socket (<sys/un.h>); containerd's is the longest that we cause.
_LONGEST = 108 - len("/run/exec/containerd/containerd-debug.sock") - 1


def host() -> str:
    """What DOCKER_HOST is for the embedded engine."""
    return f"unix://{home()}/run/docker.sock"


def log() -> Path:
    """Where the daemon writes."""
    return home() / "dockerd.log"


def describe() -> Engine:
    """The embedded engine as the rest of the toolkit uses it, whether or not it runs."""
    return Engine(host(), str(packages.binaries() / "docker"), "embedded", home() / "client", packages.binaries())


def version() -> str | None:
    """The version of a running embedded engine."""
    return api.version(host())


def up() -> None:
    """Unpack and start what is missing. The caller holds the lock. Raises EngineMissing or EngineFailed."""
    if len(str(home())) > _LONGEST:
        msg = f"SHIPYARD_HOME={home()} is longer than {_LONGEST} characters, too long for the engine's sockets"
        raise EngineFailed(msg)
    packages.ensure()
    client_config(describe().config or home() / "client")
    if version():
        return
    _clear_stale()
    (home() / "run").mkdir(parents=True, exist_ok=True)
    proxy = os.environ.get("SHIPYARD_USERLAND_PROXY", "").lower() in ("1", "true", "yes")
    _config().write_text(commands.daemon_json(proxy=proxy))
    granted = _ask_for_files(proxy=proxy)
    process = _start()
    _await(process)
    if not proxy:
        _keep_loopback()
    console.step(
        f"started an embedded Docker engine ({version()}, {host()}, {granted} open files); `invoke engine.down` stops it"
    )


def client_config(folder: Path, extend: Path | None = None) -> None:
    """Write a DOCKER_CONFIG that finds the unpacked plugins, on top of the user's own one if there is any."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    # What `docker login` wrote here is kept.
    settings: dict[str, object] = _settings(folder / "config.json") if extend is None else {}
    if extend and (extend / "config.json").exists():
        settings = json.loads((extend / "config.json").read_text())
        for shared in ("contexts", "cli-plugins", "buildx"):
            if (extend / shared).exists() and not (folder / shared).exists():
                (folder / shared).symlink_to(extend / shared)
    settings["cliPluginsExtraDirs"] = [str(packages.plugins())]
    target = folder / "config.json"
    text = json.dumps(settings, indent=2)
    if not target.exists() or target.read_text() != text:
        scratch = target.with_suffix(f".{os.getpid()}")
        scratch.touch(mode=0o600)
        scratch.write_text(text)
        scratch.replace(target)


def _settings(file: Path) -> dict[str, object]:
    import json

    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def pid() -> int | None:
    """The process id of our dockerd; None when it does not run. A recycled pid of another program does not count."""
    try:
        number = int((home() / "run/dockerd.pid").read_text())
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    ours = f"--pidfile={home()}/run/dockerd.pid".encode()
    return number if ours in words else None


def _clear_stale() -> None:
    """Remove what a crash or a reboot left behind; a daemon of ours that runs but does not answer is ended first."""
    if number := pid():
        console.warn(f"the embedded engine (pid {number}) does not answer; it is started anew")
        _end(number)
    for name in ("dockerd.pid", "docker.sock"):
        (home() / "run" / name).unlink(missing_ok=True)


def _start() -> Popen[bytes]:
    argv = commands.dockerd(packages.binaries() / "dockerd", home())
    return detach(argv, log(), env={**os.environ, "PATH": _path()}, cwd=Path("/"))


def _path() -> str:
    return f"{packages.binaries()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _ask_for_files(*, proxy: bool) -> int:
    """Raise the limit of open files, which the daemon and its containers inherit; return what was granted.

    Beyond the hard limit it takes CAP_SYS_RESOURCE; without that, everything up to it is taken. Written to the log.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    granted = open_files.WANTED if hard == resource.RLIM_INFINITY else max(hard, open_files.WANTED)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, granted))
    except (ValueError, OSError):
        granted = hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, granted))
    with log().open("a") as output:
        output.write(f"shipyard: {granted} open files granted, {open_files.WANTED} asked for\n")
    if granted < (needed := open_files.least(proxy=proxy)):
        console.warn(f"the engine may have {granted} open files and needs {needed}; raise the hard limit (ulimit -Hn)")
    return granted


def _keep_loopback() -> None:
    """Keep from the machine's loopback what the kernel would keep from it if it did not forward 127.0.0.1."""
    program = shutil.which("iptables", path=_path())
    if program is None:
        return  # then dockerd did not start: it needs it, too
    if run(commands.keep_loopback(program, "--check"), check=False, timeout=30).status:
        run(commands.keep_loopback(program, "--insert"), timeout=30)


def _config() -> Path:
    return home() / "daemon.json"


def forwards() -> str:
    """What forwards published ports of the engine that was started last: "kernel" or "docker-proxy"; empty if none was."""
    settings = _settings(_config())
    return "" if not settings else "docker-proxy" if settings.get("userland-proxy", True) else "kernel"


def _await(process: Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    try:
        while not version():
            if process.poll() is not None or time.monotonic() > deadline:
                raise EngineFailed(_failure(process))
            time.sleep(0.05)
    except BaseException:
        with suppress(ProcessLookupError):
            process.terminate()
        raise


def _failure(process: Popen[bytes]) -> str:
    tail = "\n".join("    " + line for line in log().read_text(errors="replace").splitlines()[-8:])
    state = (
        f"ended with status {process.returncode}"
        if process.returncode is not None
        else f"did not answer in {START:g} s"
    )
    return (
        f"the embedded Docker engine {state}. The end of {log()}:\n{tail}\n"
        "It needs root with all capabilities (as on a machine or in a privileged container), cgroups and overlayfs."
    )


def down() -> bool:
    """Stop the daemon and with it every container. The caller holds the lock. False when none was running."""
    number = pid()
    if number is None:
        _clear_stale()
        return False
    _end(number)
    _clear_stale()
    _unmount_networks()
    return True


def _unmount_networks() -> None:
    """Let go of the network namespaces that dockerd leaves mounted: their folder could not be removed."""
    for path in (home() / "run/exec/netns").glob("*"):
        if os.path.ismount(path):
            run(["umount", str(path)], check=False, timeout=30)


def _end(number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGTERM)
    deadline = time.monotonic() + STOP
    while processes.started(number) is not None:
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)
