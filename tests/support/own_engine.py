"""An engine of a test's own, which may crash and run out of disk: in a network namespace of its own, on a disk of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import shipyard
from shipyard.commands import engine as commands
from shipyard.engine import api, packages
from tests.support.service import wait_until
from tests.support.stack import Checkout

CLONE_NEWNET = 0x40000000  # <linux/sched.h>; os.setns came with Python 3.12
#: Bytes of its disk, in memory: images as they come and unpacked, and room for what a stack writes.
DISK = 4 * 1024**3


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Sockets and processes that begin in this block, threads' too, are in a network namespace with nothing but loopback."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"], stdout=subprocess.PIPE
    )
    assert holder.stdout
    try:
        assert holder.stdout.readline() == b"up\n"
        with Path("/proc/thread-self/ns/net").open() as here, Path(f"/proc/{holder.pid}/ns/net").open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")


class OwnEngine:
    """An embedded engine below ``home``, started by a checkout's own command; ``disk`` is all that it has."""

    def __init__(self, home: Path, copy: Checkout) -> None:
        self.home, self.disk = home, home / "data"
        self._copy = copy

    def start(self) -> None:
        """As after a restart of the machine, or by a service manager."""
        self._copy.invoke("engine.up")

    def stop(self) -> None:
        """With everything in it."""
        self._copy.invoke("engine.down")

    def pid(self) -> int:
        """The daemon's process."""
        return int((self.home / "run/dockerd.pid").read_text())

    def end(self, number: signal.Signals) -> None:
        """Send the daemon a signal that ends it, and wait for that."""
        daemon = self.pid()
        os.kill(daemon, number)
        wait_until(lambda: not Path(f"/proc/{daemon}").exists(), "the end of dockerd", 60)

    def load(self, engine: shipyard.engine.Engine, images: Sequence[str]) -> None:
        """Copy images from another engine."""
        own = shipyard.engine.find()
        with subprocess.Popen(
            [engine.docker, "save", *images], env=engine.environment(), stdout=subprocess.PIPE
        ) as saving:
            subprocess.run(
                [own.docker, "load", "--quiet"],
                env=own.environment(),
                stdin=saving.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        assert saving.returncode == 0


@contextlib.contextmanager
def own_engine(copy: Checkout, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    """Everything in the block, the toolkit included, uses this engine; nothing of it is left afterwards."""
    with shipyard.engine.lock("unpacking for the tests"):
        packages.ensure()
    programs = packages.folder()
    # Not pytest's folder: a unix socket's path has 108 bytes.
    home = Path(tempfile.mkdtemp(prefix="shipyard-test-", dir="/tmp"))
    found = OwnEngine(home, copy)
    try:
        (home / programs.name).symlink_to(programs)
        found.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(found.disk)], check=True)
        for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SHIPYARD_HOME", str(home))
        with apart():
            found.start()
            try:
                yield found
            finally:
                found.stop()
    finally:
        # A killed engine leaves mounts of its containers behind; the innermost goes first.
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((each for each in mounted if each.startswith(f"{home}/")), reverse=True):
            subprocess.run(["umount", place], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


#: A private /etc with the user that `--userns-remap=default` wants; then the daemon, whose data are in memory.
_APART = """
ip link set lo up
mount -t tmpfs -o size=512m tmpfs "$1/data"
for name in passwd group subuid subgid; do
    if [ -e /etc/$name ]; then cp /etc/$name "$1/etc"; else : >"$1/etc/$name"; : >/etc/$name; fi
done
echo dockremap:x:990:990::/:/bin/false >>"$1/etc/passwd"
echo dockremap:x:990: >>"$1/etc/group"
echo dockremap:500000:65536 | tee -a "$1/etc/subuid" >>"$1/etc/subgid"
for name in passwd group subuid subgid; do mount --bind "$1/etc/$name" /etc/$name; done
shift
exec "$@"
"""


@contextlib.contextmanager
def engine_with(*flags: str) -> Iterator[str]:
    """The host of an engine that is started with ``flags``, in namespaces of its own for network and mounts."""
    with shipyard.engine.lock("unpacking for the tests"):
        packages.ensure()
    home = Path(tempfile.mkdtemp(prefix="shipyard-test-", dir="/tmp"))
    home.chmod(0o755)  # other user ids are to reach what is in it
    for name in ("etc", "data", "run"):
        (home / name).mkdir()
    (home / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
    daemon = commands.dockerd(packages.binaries() / "dockerd", home)
    argv = [
        "unshare",
        "--net",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-euc",
        _APART,
        "sh",
        home,
        *daemon,
        *flags,
    ]
    path = f"{packages.binaries()}{os.pathsep}{os.environ['PATH']}"
    host = f"unix://{home}/run/docker.sock"
    with (home / "log").open("w") as log:
        process = subprocess.Popen(argv, env={**os.environ, "PATH": path}, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or api.version(host), "the engine", 60)
        assert process.poll() is None, (home / "log").read_text()
        yield host
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(home, ignore_errors=True)


def compose(copy: Checkout, *words: str) -> str:
    """Plain `docker compose` on production's files, as whoever has no toolkit writes it."""
    engine = shipyard.engine.find()
    files = ("compose/compose.yaml", "compose/prod.yaml", *map(str, copy.extra))
    argv = [engine.docker, "compose", "--env-file", ".env", *(word for each in files for word in ("-f", each)), *words]
    done = subprocess.run(
        argv,
        cwd=copy.root,
        env={**copy.environment(), **engine.variables()},
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"docker compose {' '.join(words)}: {done.stderr}"
    return done.stdout
