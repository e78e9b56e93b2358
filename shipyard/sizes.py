"""How large an image is, uncompressed, and which of its files are the biggest."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from heapq import nlargest
from typing import IO, Any, cast

from shipyard import console, linking, machine
from shipyard.engine import unstarted
from shipyard.engine.types import Engine
from shipyard.errors import EngineFailed

_STATE = "sizes.json"
_KEPT = 200  # sizes of the newest images; an entry is about 100 bytes


@dataclass(frozen=True)
class Inventory:
    """The files of an image. ``total`` and the sizes of ``biggest`` are in bytes; ``twice`` are CUDA libraries there twice."""

    total: int
    biggest: tuple[tuple[str, int], ...]
    twice: tuple[str, ...] = ()


def known(digest: str) -> int | None:
    """The size measured before for this image digest."""
    size = machine.read(_STATE).get(digest)
    return size if isinstance(size, int) else None


def measure(engine: Engine, reference: str, digest: str, platform: str, biggest: int = 10) -> Inventory:
    """Read the image's root file system once, as a stream, and add up its files; the sum is remembered by digest.

    What is read is the digest; ``reference`` is for the error.
    """
    from docker.errors import APIError

    import docker

    client = docker.DockerClient(base_url=engine.host, timeout=300)
    try:
        container = unstarted.create(client, digest, platform)
        try:
            chunks = client.api.export(container)
            with tarfile.open(fileobj=cast("IO[bytes]", Stream(chunks)), mode="r|") as archive:
                files = [(member.name, member.size) for member in archive if member.isfile()]
        finally:
            client.api.remove_container(container, force=True)
    except APIError as failed:
        msg = f"{reference} could not be read for its size: {failed.explanation or failed}"
        raise EngineFailed(msg) from failed
    finally:
        client.close()
    total = sum(size for _, size in files)
    entries = {**machine.read(_STATE), digest: total}
    machine.write(_STATE, dict(list(entries.items())[-_KEPT:]))
    largest = tuple(nlargest(biggest, files, key=lambda item: item[1]))
    return Inventory(total, largest, tuple(linking.twice(name for name, _ in files)))


def listing(inventory: Inventory) -> str:
    """The biggest files, one per line, largest first."""
    return "\n".join(f"    {console.megabytes(size):>10}  /{name}" for name, size in inventory.biggest)


class Stream:
    """The part of a file object that ``tarfile`` needs, over an iterator of chunks."""

    def __init__(self, chunks: Any) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        parts, have = [self._rest], len(self._rest)
        while have < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            have += len(chunk)
        joined = b"".join(parts)
        self._rest = joined[size:]
        return joined[:size]
