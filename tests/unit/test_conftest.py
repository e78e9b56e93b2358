"""The block that tests/unit/conftest.py puts around every unit test, tried from each side."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NOWHERE = "/nonexistent/program"  # should the block ever fail, nothing is replaced and nothing runs

PROCESS = (
    "a unit test may not start a process ({}); split the pure part out and test that, "
    "or move the test to tests/services, tests/images or tests/phases"
)
NETWORK = PROCESS.replace("start a process", "use the network")


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(pytest.fail.Exception) as refused:
        action()
    return str(refused.value)


def fork() -> None:
    if os.fork() == 0:
        os._exit(1)


def test_no_process_is_started() -> None:
    found = [
        refusal(lambda: subprocess.Popen([NOWHERE])),
        refusal(lambda: subprocess.run([NOWHERE], check=True)),
        refusal(fork),
        refusal(lambda: os.execv(NOWHERE, [NOWHERE])),
        refusal(lambda: os.execvpe(NOWHERE, [NOWHERE], {})),
        refusal(lambda: os.posix_spawn(NOWHERE, [NOWHERE], {})),
        refusal(lambda: os.system(NOWHERE)),
    ]
    assert found == [
        PROCESS.format(f"subprocess.Popen: '{NOWHERE}'"),
        PROCESS.format(f"subprocess.Popen: '{NOWHERE}'"),
        PROCESS.format("os.fork: None"),
        PROCESS.format(f"os.exec: '{NOWHERE}'"),
        PROCESS.format(f"os.exec: '{NOWHERE}'"),
        PROCESS.format(f"os.posix_spawn: '{NOWHERE}'"),
        PROCESS.format(f"os.system: {NOWHERE.encode()!r}"),
    ]


def test_asyncio_starts_no_process_either() -> None:
    assert "may not start a process" in refusal(lambda: asyncio.run(_spawn()))


async def _spawn() -> None:
    await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")


def test_no_socket_is_connected_or_bound(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    found = []
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 9)),
        (socket.AF_INET6, ("::1", 9)),
        (socket.AF_UNIX, path),
    ):
        with socket.socket(family) as each:
            found += [refusal(lambda: each.connect(address)), refusal(lambda: each.bind(address))]  # noqa: B023
    assert found == [
        NETWORK.format(f"{event}: {address!r}")
        for address in (("127.0.0.1", 9), ("::1", 9), path)
        for event in ("socket.connect", "socket.bind")
    ]
    assert not (tmp_path / "socket").exists()


def test_no_name_is_looked_up() -> None:
    assert "may not use the network (socket.getaddrinfo" in refusal(
        lambda: socket.create_connection(("localhost", 9), timeout=1)
    )


def test_the_code_under_test_cannot_swallow_the_refusal() -> None:
    def careless() -> None:
        try:
            subprocess.run([NOWHERE], check=False)
        except Exception:
            return

    assert "may not start a process" in refusal(careless)


def test_the_event_loop_still_wakes_up() -> None:
    async def from_a_thread() -> str:
        return await asyncio.to_thread(lambda: "woken through the loop's socket pair")

    assert asyncio.run(from_a_thread()) == "woken through the loop's socket pair"


def test_a_pair_of_connected_sockets_is_allowed() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"ping")
        assert right.recv(4) == b"ping"
