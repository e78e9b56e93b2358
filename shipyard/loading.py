"""The bytes of a release in an engine, for its image tests: of all platforms, or of one that would have to be emulated."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from shipyard import oci
from shipyard.artifacts import Artifact
from shipyard.engine import Engine, api
from shipyard.errors import EngineFailed
from shipyard.layouts import Layout

_CHUNK = 1 << 20


def load(engine: Engine, artifact: Artifact, platform: str = "") -> str:
    """Bring the bytes of a layout into the engine; returns the local reference, ``llm-call-api:1.2.3-release``.

    With ``platform`` only that platform's manifest, as ``llm-call-api:1.2.3-release-linux-arm64``: an engine takes it
    for a container without being told the platform. Raises EngineFailed when the engine does not keep the digest, as
    without the containerd image store.
    """
    from docker.errors import APIError

    import docker

    reference = f"{artifact.repository.rpartition('/')[2]}:{artifact.tag}-release"
    reference += f"-{platform.replace('/', '-')}" if platform else ""
    layout = Layout(artifact.layout)
    wanted = next(each.digest for each in artifact.parts if each.platform == platform) if platform else artifact.digest
    if (found := api.image(engine.host, reference)) and found["Id"] == wanted:
        return reference
    client = docker.DockerClient(base_url=engine.host, timeout=600)
    try:
        list(client.api.load_image(_archive(layout, wanted, reference)))  # type: ignore[no-untyped-call]
    except APIError as failed:
        msg = f"{engine.host} could not load {artifact.key}: {failed.explanation or failed}"
        raise EngineFailed(msg) from failed
    finally:
        client.close()
    kept = (api.image(engine.host, reference) or {}).get("Id", "nothing")
    if kept != wanted:
        msg = f"{engine.host} made {kept} of {artifact.key} ({wanted}); is it without the containerd image store?"
        raise EngineFailed(msg)
    return reference


def unload(engine: Engine, references: Iterable[str]) -> None:
    """Let the engine forget what was loaded and tested; what a container still uses stays."""
    from docker.errors import APIError

    import docker

    client = docker.DockerClient(base_url=engine.host)
    try:
        for each in references:
            with suppress(APIError, OSError):  # an engine that went away is told by whoever needs it next
                client.api.remove_image(each)
    finally:
        client.close()


def _archive(layout: Layout, wanted: str, reference: str) -> Iterator[bytes]:
    """What belongs to a digest as a tar stream; its ``index.json`` has the name under which containerd keeps the image."""
    top = next(each for each in (layout.top, *layout.manifests) if each.digest == wanted)
    parts = layout.manifests if wanted == layout.digest else ()
    yield from _file("oci-layout", layout.path / "oci-layout")
    for digest in _blobs(layout, top, parts):
        yield from _file(f"blobs/{digest.replace(':', '/')}", layout.blob(digest))
    named = {
        "mediaType": top.media_type,
        "digest": top.digest,
        "size": top.size,
        "annotations": {"io.containerd.image.name": f"docker.io/library/{reference}"},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [named]}).encode()
    yield _header("index.json", len(index)) + index + _padding(len(index)) + b"\0" * (2 * tarfile.BLOCKSIZE)


def _blobs(layout: Layout, top: oci.Descriptor, parts: Sequence[oci.Descriptor]) -> dict[str, None]:
    """Digests of everything below ``top``, each once."""
    manifests = dict.fromkeys([top.digest, *(each.digest for each in parts)])
    below = [blob.digest for each in parts or (top,) for blob in layout.blobs(each.digest)]
    return {**manifests, **dict.fromkeys(below)}


def _file(name: str, path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield _header(name, size)
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk
    yield _padding(size)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf()


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)
