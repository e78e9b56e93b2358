"""Real engines with settings by which a start fails: `invoke doctor` names them, and a start says so before it makes anything."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

import shipyard
from shipyard.engine import daemon
from tests.doctor.conftest import Machine
from tests.support.own_engine import engine_with

OVERLAYS = ("prod", "dev", "hybrid", "host")


def docker(host: str, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    argv = [shipyard.engine.find().docker, "--host", host, *words]
    return subprocess.run(argv, input=data, check=False, capture_output=True, timeout=60)


def programs(host: str) -> str:
    """An image that has nothing but links to where this machine's programs will be mounted."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("bin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                archive.addfile(link)
        folder = tarfile.TarInfo("usr")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
    return docker(host, "import", "-", "programs", data=data.getvalue()).stdout.decode().strip()


def read(host: str, machine: Machine) -> subprocess.CompletedProcess[bytes]:
    """As the API reads its keys."""
    mounts = ["--volume", "/usr:/usr:ro", "--volume", f"{machine.root}/secrets/api:/run/secrets:ro"]
    argv = ["run", "--rm", "--network", "none", "--user", "10001:10001", *mounts, programs(host)]
    return docker(host, *argv, "/usr/bin/cat", "/run/secrets/api_keys")


def refused(machine: Machine, words: str) -> None:
    """Every start, with nothing made by it."""
    before = sorted(machine.root.rglob("*"))
    for overlay in OVERLAYS:
        done = machine.invoke(overlay)
        assert done.returncode == 6, f"{overlay}: {done.returncode}\n{done.stderr}"
        assert words in done.stderr
        assert done.stderr.splitlines()[-1].endswith("`invoke doctor` says what is missing here, and what mends it")
        assert docker(machine.variables["DOCKER_HOST"], "ps", "--all", "--quiet").stdout == b""
    assert [
        path for path in sorted(machine.root.rglob("*")) if path not in before and "__pycache__" not in path.parts
    ] == []


def test_userns_remap(machine: Machine) -> None:
    own = machine.variables["DOCKER_HOST"]
    assert read(own, machine).returncode == 0, "the same folder on an engine without it"
    with engine_with("--userns-remap=default") as host:
        assert b"Permission denied" in read(host, machine).stderr
        machine.variables["DOCKER_HOST"] = host
        found = machine.examined(status=24)
        assert found.failed() == {"engine settings"}
        assert "userns-remap" in found.seen("engine settings")
        assert "take userns-remap out of its daemon.json or command line" in found.mend("engine settings")
        refused(machine, "userns-remap: it gives containers other user ids")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--iptables=false", "--ip6tables=false"), "iptables=false: nothing keeps networks apart"),
    ],
)
def test_no_rules(machine: Machine, flags: tuple[str, ...], words: str) -> None:
    with engine_with(*flags) as host:
        machine.variables["DOCKER_HOST"] = host
        found = machine.examined(status=24)
        assert found.failed() == {"engine settings"}
        assert words in found.seen("engine settings")
        refused(machine, words)


def test_settings_that_break_nothing(machine: Machine) -> None:
    flags = (
        "--icc=false",
        "--live-restore",
        "--userland-proxy=false",
        "--no-new-privileges",
        "--default-ulimit=nofile=64:64",
    )
    with engine_with(*flags, "--log-driver=none") as host:
        found = daemon.settings(host)
        assert (found["icc"], found["userland-proxy"], found["live-restore"]) == (False, False, True)
        assert found["features"] == {"containerd-snapshotter": True}, "of its file"
        machine.variables["DOCKER_HOST"] = host
        assert machine.examined(status=0).state("engine settings") == "ok"
