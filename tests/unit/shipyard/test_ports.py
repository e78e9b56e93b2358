"""Ports: every taken one is told at once, with its owner and the variable that moves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shipyard import ports, quantities
from shipyard.errors import PortInUse
from shipyard.ports import Published

API = Published("llm-call-api", "127.0.0.1", 8001, "LLM_CALL_API_PORT")
PROXY = Published("claude-proxy", "127.0.0.1", 3010, "CLAUDE_PROXY_PORT")
REDIS = Published("redis", "::1", 6379, "REDIS_PORT")


def taken(monkeypatch: pytest.MonkeyPatch, *busy: tuple[str, int]) -> None:
    monkeypatch.setattr(ports, "_free", lambda address, port: (address, port) not in busy)
    monkeypatch.setattr(ports, "foreign", lambda address: address == "192.0.2.1")
    monkeypatch.setattr(ports, "_process", lambda port: f"process {port + 1} (nginx)")


def test_free_ports_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    taken(monkeypatch, ("127.0.0.1", 6379))
    ports.check([API, PROXY, REDIS], {8001: "container other"})


def test_every_taken_port_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    taken(monkeypatch, ("127.0.0.1", 8001), ("::1", 6379))
    with pytest.raises(PortInUse) as raised:
        ports.check(iter([API, PROXY, REDIS]), {8001: "container other-api-1"})
    assert str(raised.value) == (
        "127.0.0.1:8001 (llm-call-api) is in use by container other-api-1; stop that, or set LLM_CALL_API_PORT in .env\n"
        "::1:6379 (redis) is in use by process 6380 (nginx); stop that, or set REDIS_PORT in .env"
    )


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0
   1: 0100007F:1F42 0100007F:1F41 01 00000000:00000000 00:00000000 00000000     0        0 555 1 0 100 0 0 10 0
"""


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which process 42 listens on 127.0.0.1:8001 and 8002 is only the far end of a connection."""
    root = tmp_path / "proc"
    (root / "net").mkdir(parents=True)
    (root / "net/tcp").write_text(TABLE.format(444))
    for number, inode in ((41, 555), (42, 444)):
        (root / f"{number}/fd").mkdir(parents=True)
        (root / f"{number}/fd/0").symlink_to("/dev/null")
        (root / f"{number}/fd/3").symlink_to(f"socket:[{inode}]")
        (root / f"{number}/cmdline").write_bytes(f"/usr/bin/server\0--number\0{number}\0".encode())
    monkeypatch.setattr(ports, "Path", lambda path: root / str(path).removeprefix("/proc").lstrip("/"))
    return root


def test_the_process_that_listens_is_found_by_its_socket(proc: Path) -> None:
    assert ports._process(8001) == "process 42 (/usr/bin/server --number 42)"


def test_a_connection_is_not_a_listener(proc: Path) -> None:
    assert ports._process(8002) == "a process that cannot be seen from here"


def test_a_listener_on_ipv6_whose_process_is_not_ours_to_see(proc: Path) -> None:
    (proc / "net/tcp6").write_text(TABLE.format(666).replace("0100007F:1F41", "0" * 31 + "1:2328"))
    assert ports._process(9000) == "a process that cannot be seen from here"
    (proc / "42/fd/4").symlink_to("socket:[666]")
    assert ports._process(9000) == "process 42 (/usr/bin/server --number 42)"


def test_an_address_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    taken(monkeypatch)
    with pytest.raises(PortInUse, match=r"192\.0\.2\.1: no address of this machine; set LLM_CALL_API_ADDRESS"):
        ports.check([quantities.Published("balancer", "192.0.2.1", 8001, "LLM_CALL_API_PORT")], {})


def test_two_that_ask_for_the_same_port() -> None:
    elsewhere, everywhere = replace(PROXY, port=8001, address="192.0.2.7"), replace(PROXY, port=8001, address="0.0.0.0")
    assert quantities.equal([API, PROXY, REDIS, elsewhere]) == []
    found = [str(each) for each in quantities.equal([API, everywhere, replace(REDIS, port=3010)])]
    assert found == [".env: LLM_CALL_API_PORT, CLAUDE_PROXY_PORT: are both 8001; give each a port of its own"]
