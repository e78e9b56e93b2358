"""The embedded registry: a process that outlives us, found again by its start, with data that outlive it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shipyard
from shipyard import local_registry, publishing
from shipyard.engine import packages
from shipyard.errors import PortInUse, RegistryFailed
from shipyard.registry import Registry
from tests.support import registries
from tests.support.service import ROOT, wait_until


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine of the test's own, on which Debian's programs are unpacked already."""
    if not packages.folder().exists():
        with shipyard.engine.lock("unpacking the registry"):
            packages.ensure()
    unpacked, home = packages.folder(), tmp_path / "machine"
    home.mkdir()
    (home / unpacked.name).symlink_to(unpacked)
    (port,) = registries.free_ports(1)
    monkeypatch.setenv("SHIPYARD_HOME", str(home))
    monkeypatch.setenv("SHIPYARD_REGISTRY_PORT", str(port))
    yield home
    # A test may have moved the port; what runs is found by its process.
    local_registry.down()


def test_it_runs_until_it_is_stopped_and_keeps_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert local_registry.status().state == "stopped"
    first = local_registry.up()
    assert (first.state, first.address) == ("running", local_registry.address())
    again = local_registry.up()
    assert again == first
    assert f"runs already at {first.address} (process {first.pid})" in capsys.readouterr().err
    image = registries.artifact(tmp_path / "tiny", first.address)
    publishing.push(Registry(first.address), image)

    assert local_registry.down()
    assert local_registry.status().state == "stopped"
    assert not local_registry.down()
    with pytest.raises(RegistryFailed, match="Connection refused"):
        Registry(first.address, patience=0).ping()

    second = local_registry.up()
    assert second.pid != first.pid
    assert publishing.present(Registry(second.address), image)
    lines = [json.loads(line) for line in local_registry.log().read_text().splitlines()]
    assert {"PUT", "POST", "HEAD", "GET"} <= {line.get("http.request.method") for line in lines}


def test_it_outlives_who_started_it_and_a_kill_is_noticed() -> None:
    code = "import shipyard; shipyard.local_registry.up()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    found = local_registry.status()
    assert found.state == "running"
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)
    wait_until(lambda: local_registry.status().state == "stopped", "the end of the registry")
    assert local_registry.up().state == "running"


def test_only_this_machine_reaches_it() -> None:
    found = local_registry.up()
    port = int(found.address.rpartition(":")[2])
    tables = [Path(f"/proc/{found.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [line.split()[1] for table in tables for line in table if line.split()[3] == "0A"]
    assert [each for each in listening if int(each.rpartition(":")[2], 16) == port] == [f"0100007F:{port:04X}"]
    assert Path(found.data).stat().st_mode & 0o077 == 0
    assert (Path(found.data).parent / "config.yml").stat().st_mode & 0o077 == 0


def test_a_taken_port_names_who_has_it() -> None:
    port = int(local_registry.address().rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(
            PortInUse, match=rf"127.0.0.1:{port} \(registry\) is in use by process {os.getpid()} .*_PORT"
        ):
            local_registry.up()
        assert local_registry.status().state == "stopped"


def test_a_recycled_process_number_is_left_alone(machine: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record = {"pid": stranger.pid, "started": 1, "port": 1}
        (machine / "registry").mkdir()
        (machine / "registry/process.json").write_text(json.dumps(record))
        assert local_registry.status().state == "stopped"
        assert not local_registry.down()
        assert stranger.poll() is None
        stranger.kill()


def test_one_that_hangs_is_started_anew() -> None:
    first = local_registry.up()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    assert local_registry.status().state == "silent"
    second = local_registry.up()
    assert second.state == "running"
    assert second.pid != first.pid


def test_it_does_not_move_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = local_registry.up()
    (port,) = registries.free_ports(1)
    monkeypatch.setenv("SHIPYARD_REGISTRY_PORT", str(port))
    assert local_registry.status() == first
    with pytest.raises(RegistryFailed, match=r"registry.down` to move it"):
        local_registry.up()


def test_variables_of_the_registry_itself_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", "0.0.0.0:1")
    monkeypatch.setenv("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "true")
    Registry(local_registry.up().address).writable("tiny")


def test_one_that_cannot_start_shows_its_log(machine: Path) -> None:
    unpacked = machine / packages.folder().name
    unpacked.unlink()
    program = unpacked / "bin/docker-registry"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(RegistryFailed, match=r"did not start; the end of .*registry.log:\n    no luck today"):
        local_registry.up()
    assert local_registry.status().state == "stopped"


def test_a_folder_that_cannot_be_written_is_named(machine: Path) -> None:
    (machine / "registry").mkdir()
    (machine / "registry/data").write_text("no folder")
    with pytest.raises(RegistryFailed, match=r"cannot be started below .*registry: File exists"):
        local_registry.up()
