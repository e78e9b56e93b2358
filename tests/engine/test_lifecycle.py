"""Starting, stopping and healing the embedded engine."""

from __future__ import annotations

import os
import signal

from shipyard.errors import DOCTOR
from tests.engine.conftest import Home
from tests.support.service import wait_until


def test_two_starts_at_once_give_one_engine(home: Home) -> None:
    assert home.status()["kind"] == "none"
    both = [home.start("engine.up") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("started an embedded Docker engine" in stderr for _, stderr in said) == 1
    assert home.status()["kind"] == "embedded"
    first = home.dockerd()
    assert "started" not in home.invoke("engine.up").stderr
    assert home.dockerd() == first
    home.invoke("engine.down")
    assert home.processes() == {}
    assert "no embedded engine is running" in home.invoke("engine.down").stderr


def test_it_says_how_to_stop_it(home: Home) -> None:
    assert "`invoke engine.down` stops it" in home.invoke("engine.up").stderr
    lines = home.invoke("engine.env").stdout.splitlines()
    assert lines[0] == f"export DOCKER_HOST=unix://{home.root}/run/docker.sock"
    assert [line.split("=")[0] for line in lines] == ["export DOCKER_HOST", "export DOCKER_CONFIG", "export PATH"]


def test_a_crash_heals_itself(home: Home) -> None:
    home.invoke("engine.up")
    killed = home.dockerd()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in home.processes(), "the end of dockerd")
    assert (home.root / "run/dockerd.pid").exists()
    assert (home.root / "run/docker.sock").exists()
    assert home.status()["kind"] == "none"
    home.invoke("engine.up")
    assert home.status()["kind"] == "embedded"


def test_after_a_reboot_the_pid_file_may_name_anybody(home: Home) -> None:
    (home.root / "run").mkdir()
    (home.root / "run/dockerd.pid").write_text(str(os.getpid()))
    (home.root / "run/docker.sock").touch()
    home.invoke("engine.up")  # ends nobody: this very process goes on
    assert home.status()["kind"] == "embedded"


def test_a_hung_engine_is_replaced(home: Home) -> None:
    home.invoke("engine.up")
    hung = home.dockerd()
    os.kill(hung, signal.SIGSTOP)
    try:
        assert "does not answer" in home.invoke("engine.up", seconds=200).stderr
        assert home.dockerd() != hung
    finally:
        if hung in home.processes():
            os.kill(hung, signal.SIGCONT)


def test_docker_host_is_an_order(home: Home) -> None:
    refused = home.invoke("build", status=5, DOCKER_HOST=f"unix://{home.root}/nothing.sock")
    assert refused.stderr == (
        f"error: DOCKER_HOST=unix://{home.root}/nothing.sock does not answer; "
        f"start that engine, or unset DOCKER_HOST to use another one\n    {DOCTOR}\n"
    )
    assert home.processes() == {}


def test_a_home_too_long_for_a_socket_is_refused(home: Home) -> None:
    long = home.root / ("x" * 80)
    refused = home.invoke("engine.up", status=6, SHIPYARD_HOME=str(long))
    assert "too long for the engine's sockets" in refused.stderr
