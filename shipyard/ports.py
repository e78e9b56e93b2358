"""Whether the ports that a stack publishes are free, and who has them if not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from shipyard.errors import PortInUse
from shipyard.quantities import Published

#: For an engine that forwards ports in the kernel: it has no rule that leads from an IPv6 address to a container's IPv4.
SIX = (
    "{address}: the embedded engine forwards ports of IPv4 addresses only; set LLM_CALL_API_ADDRESS=127.0.0.1 in .env, "
    "or start the engine with docker-proxy: `invoke engine.down`, then `SHIPYARD_USERLAND_PROXY=true invoke engine.up`"
)


def check(wanted: Iterable[Published], owners: dict[int, str]) -> None:
    """Raise PortInUse naming every taken port and its owner. ``owners`` maps ports to the containers that publish them."""
    wanted = list(wanted)
    if strange := sorted({each.address for each in wanted if foreign(each.address)}):
        msg = f"{', '.join(strange)}: no address of this machine; set LLM_CALL_API_ADDRESS in .env to one, such as 127.0.0.1"
        raise PortInUse(msg)
    taken = {each: found for each in wanted if (found := owner(each.address, each.port, owners))}
    if taken:
        lines = [
            f"{each.address}:{each.port} ({each.service}) is in use by {by}; stop that, or set {each.variable} in .env"
            for each, by in taken.items()
        ]
        raise PortInUse("\n".join(lines))


def owner(address: str, port: int, containers: Mapping[int, str]) -> str:
    """Who has a port: the container of ``containers`` that publishes it, else a process; empty when it is free."""
    return "" if _free(address, port) else containers.get(port) or _process(port)


def foreign(address: str) -> bool:
    """Whether this is no address of this machine, or none at all."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address or "0.0.0.0", 0))
        except OSError as problem:
            return problem.errno == errno.EADDRNOTAVAIL or isinstance(problem, socket.gaierror)
    return False


def _free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address or "0.0.0.0", port))
        except OSError:
            return False
    return True


def _process(port: int) -> str:
    """The process that listens, found by the socket's inode; root sees every process, others only their own."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for folder in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        if any(link[8:-1] in inodes for link in _links(folder)):
            with suppress(OSError):
                command = (folder.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {folder.parent.name} ({command.strip()[:60]})"
    return "a process that cannot be seen from here"


def _links(folder: Path) -> Iterator[str]:
    """What a process has open; one that was closed meanwhile, as is the folder's own, hides no other."""
    with suppress(OSError):
        for handle in folder.iterdir():
            with suppress(OSError):
                yield str(handle.readlink())
