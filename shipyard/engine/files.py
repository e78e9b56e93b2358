"""How many files the processes of an engine may have open, as this machine's /proc tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shipyard.diagnosis.open_files import WANTED


def most(number: int) -> int | None:
    """The hard limit of a process, to which programs in Go raise their own; None when it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{number}/limits").read_text().splitlines():
            if line.startswith("Max open files"):
                found = line.split()[-2]
                return WANTED if found == "unlimited" else int(found)
    return None


def forwarders(other_than: int | None = None) -> Iterator[int]:
    """Processes docker-proxy of this machine, but for those of one daemon."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            name, _, fields = (folder / "stat").read_text("utf-8", "replace").partition("(")[2].rpartition(")")
            if name == "docker-proxy" and int(fields.split()[1]) != other_than:
                yield int(folder.name)
