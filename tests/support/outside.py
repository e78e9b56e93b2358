"""A world outside that is this machine's own: a network namespace behind a pair of virtual interfaces.

Containers reach it as they would reach the internet: by the engine's forwarding and its address translation. It goes
away with its one process, which ends with the test's own, however that ends. The documentation's addresses (RFC 5737)
lead nowhere else, and for as long as it is there the metadata address leads to it, too.
"""

from __future__ import annotations

import http.client
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.service import wait_until

STAND_IN = Path(__file__).with_name("stand_in.py")
METADATA = "169.254.169.254"
OPEN_PORT = 3011
"""The port of the gate: the one that the sandbox of the CLI lets TCP connect to, so that only the network says no."""
PROXY_PORT = 3128


@dataclass(frozen=True)
class Outside:
    """Addresses of the world, and the host's own on the way there."""

    interface: str
    address: str
    host: str
    address6: str
    host6: str

    def heard(self) -> list[str]:
        """What arrived out there so far."""
        return heard(self.address)

    def release(self, subnet: str) -> None:
        """End that: the engine may give the subnet to another network."""
        _ip("route", "del", subnet, "via", self.address, "dev", self.interface)

    def swallow(self, subnet: str) -> None:
        """Lead a subnet there, where nobody has its addresses.

        The host has no route to the engine's isolated networks, so what is sent to them would go to its own gateway.
        """
        _ip("route", "add", subnet, "via", self.address, "dev", self.interface)


def heard(address: str, port: int = OPEN_PORT) -> list[str]:
    """What a stand-in at this address was told so far."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/heard")
        found: list[str] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


@contextmanager
def outside() -> Iterator[Outside]:
    """Make the world, and prove that its addresses lead there and nowhere else."""
    place, block = secrets.token_hex(3), 4 * secrets.randbelow(64)
    first, second = (f"198.51.100.{block + number}" for number in (1, 2))
    prefix = f"fd{place[:2]}:{place[2:]}::"
    world = Outside(f"world-{place}", second, first, f"{prefix}2", f"{prefix}1")
    ports = ["--tcp", str(OPEN_PORT), "53", "80", "--udp", str(OPEN_PORT), "--dns", "53", "--proxy", str(PROXY_PORT)]
    with stand_in(*ports, "--answer", second, prefix=("unshare", "--net")) as process:
        _join(world, process.pid)
        for address in (world.address, METADATA, world.address6):
            route = _ip("route", "get", address)
            assert f" dev {world.interface} " in route, f"{address} would leave this machine: {route}"
        wait_until(lambda: world.heard() == [], "the world outside")
        yield world
    wait_until(lambda: not Path("/sys/class/net", world.interface).exists(), "the end of the world outside", 10)


@contextmanager
def stand_in(*words: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A stand-in as a process that ends with the block, or with us."""
    argv = [*prefix, sys.executable, "-I", str(STAND_IN), "--until-eof", *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n", f"{' '.join(argv)} ended with {process.wait(10)}"
            yield process
        finally:
            process.kill()


def _join(world: Outside, pid: int) -> None:
    """Lay the link. The kernel takes it away, with addresses and routes, when the namespace ends."""
    inside = ("nsenter", f"--target={pid}", "--net")
    _ip("link", "add", world.interface, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    for prefix, name, mine, mine6, peer in (
        ((), world.interface, world.host, world.host6, METADATA),
        (inside, "eth0", world.address, world.address6, ""),
    ):
        _ip("address", "add", f"{mine}/30", "dev", name, prefix=prefix)
        _ip("address", "add", f"{mine6}/64", "dev", name, "nodad", prefix=prefix)
        _ip("link", "set", name, "up", prefix=prefix)
        if peer:
            _ip("route", "add", f"{peer}/32", "via", world.address, "dev", name, "onlink")
    _ip("link", "set", "lo", "up", prefix=inside)
    _ip("address", "add", f"{METADATA}/32", "dev", "lo", prefix=inside)
    _ip("route", "add", "default", "via", world.host, prefix=inside)


def _ip(*words: str, prefix: tuple[str, ...] = ()) -> str:
    done = subprocess.run([*prefix, "ip", *words], check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr} (root and iproute2 are needed)"
    return done.stdout
