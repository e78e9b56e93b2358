"""The bytes of a release in an engine, for its image tests: of all platforms, or of one that would have to be emulated.

An engine has many users: other checkouts that release the same version, people who retag, remove and prune. So what is
loaded has a name with its digest and its checkout in it, a container keeps it from being pruned while it is tested, tests
run it by its digest alone, and whether the name still leads to these bytes is asked again after them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shipyard import oci
from shipyard.artifacts import Artifact
from shipyard.engine import Engine, api, unstarted
from shipyard.errors import EngineFailed
from shipyard.layouts import Layout

_CHUNK = 1 << 20
#: What stands in a name between the version and the digest.
_RELEASE = "-release-"
#: Digits of a digest in a name; the whole digest is compared.
_SHORT = 16
#: Label of the containers that hold images, with the mark of the checkout that made them.
LABEL_HOLDER = "llm-call.release"


@dataclass(frozen=True)
class Loaded:
    """An image that was loaded for its tests: the engine's ``name`` for it, and the ``digest`` that it is run by."""

    key: str
    name: str
    digest: str
    platform: str


def name(artifact: Artifact, digest: str, mark: str) -> str:
    """``llm-call-api:1.2.3-release-0123456789abcdef-MARK``; ``mark`` is the checkout's (``owned.mark``)."""
    repository = artifact.repository.rpartition("/")[2]
    return f"{repository}:{artifact.tag}{_RELEASE}{digest.partition(':')[2][:_SHORT]}-{mark}"


def load(engine: Engine, artifact: Artifact, mark: str, native: str, platform: str = "") -> Loaded:
    """Bring the bytes of a layout into the engine, for a checkout with this ``mark``.

    With ``platform`` only that platform's manifest: an engine takes it for a container without being told the platform.
    ``native`` is the engine's own platform. Raises EngineFailed when the engine does not keep the digest, as without the
    containerd image store.
    """
    from docker.errors import APIError

    import docker

    layout = Layout(artifact.layout)
    every = {each.platform: each.digest for each in artifact.parts}
    wanted = every[platform] if platform else artifact.digest
    runs_as = platform or (native if native in every else next(iter(every)))
    found = Loaded(artifact.key, name(artifact, wanted, mark), wanted, runs_as)
    if _kept(engine, found.name) == wanted:
        return found
    client = docker.DockerClient(base_url=engine.host, timeout=600)
    try:
        list(client.api.load_image(_archive(layout, wanted, found.name)))  # type: ignore[no-untyped-call]
    except APIError as failed:
        msg = f"{engine.host} could not load {artifact.key}: {failed.explanation or failed}"
        raise EngineFailed(msg) from failed
    finally:
        client.close()
    if (kept := _kept(engine, found.name)) != wanted:
        msg = f"{engine.host} made {kept} of {artifact.key} ({wanted}); is it without the containerd image store?"
        raise EngineFailed(msg)
    return found


@contextmanager
def held(engine: Engine, loaded: Iterable[Loaded], mark: str) -> Iterator[None]:
    """Keep images from being removed or pruned in this block: each has a container that is never started.

    Raises EngineFailed when one was removed already.
    """
    from docker.errors import APIError

    import docker

    client, made = docker.DockerClient(base_url=engine.host, timeout=600), list[str]()
    try:
        for image in loaded:
            try:
                made.append(unstarted.create(client, image.digest, image.platform, {LABEL_HOLDER: mark}))
            except APIError as failed:
                raise EngineFailed(_changed(engine, image, "before its tests", str(failed.explanation))) from failed
        yield
    finally:
        for each in made:
            with suppress(APIError, OSError):  # an engine that went away is told by whoever needs it next
                client.api.remove_container(each, force=True)
        client.close()


def check(engine: Engine, loaded: Iterable[Loaded]) -> None:
    """Whether each name still leads to the bytes that were loaded. Raises EngineFailed naming those that do not."""
    problems = [
        _changed(engine, each, "while it was tested")
        for each in loaded
        if (_kept(engine, each.name), _kept(engine, each.digest)) != (each.digest, each.digest)
    ]
    if problems:
        raise EngineFailed("\n".join(problems))


def unload(engine: Engine, loaded: Iterable[Loaded]) -> None:
    """Let the engine forget what was loaded and tested, by the names that it was loaded with.

    The bytes stay as long as another name or a container uses them: another checkout's with the same bytes, for one.
    """
    _remove(engine, [each.name for each in loaded if _kept(engine, each.name) == each.digest])


def sweep(engine: Engine, repositories: Iterable[str], mark: str, keep: Iterable[str] = ()) -> None:
    """Remove what earlier releases of this checkout have left: killed ones, and those whose tests failed.

    ``keep`` has names that are still wanted. Only the holder of the checkout's lease may ask for this.
    """
    holders = quote(json.dumps({"label": [f"{LABEL_HOLDER}={mark}"]}))
    left: list[dict[str, Any]] = api.get(engine.host, f"/containers/json?all=1&filters={holders}") or []
    wanted = [f"{each}:*{_RELEASE}*-{mark}" for each in repositories]
    images: list[dict[str, Any]] = (
        api.get(engine.host, f"/images/json?filters={quote(json.dumps({'reference': wanted}))}") or [] if wanted else []
    )
    tags = {
        tag for each in images for tag in each.get("RepoTags") or () if tag.endswith(f"-{mark}") and _RELEASE in tag
    }
    _remove(engine, sorted(tags - set(keep)), [str(each["Id"]) for each in left])


def _kept(engine: Engine, reference: str) -> str:
    """The digest that the engine has for a name or a digest; "nothing" when there is none."""
    return str((api.image(engine.host, reference) or {}).get("Id", "nothing"))


def _changed(engine: Engine, loaded: Loaded, when: str, said: str = "") -> str:
    return (
        f"{loaded.key} ({loaded.digest}) was loaded as {loaded.name}, which names {_kept(engine, loaded.name)} {when}"
        + (f" ({said})" if said else "")
        + f"; who else retags, removes or prunes images of {engine.host}? Nothing was pushed; run the same command again"
    )


def _remove(engine: Engine, names: Sequence[str], containers: Sequence[str] = ()) -> None:
    from docker.errors import APIError

    import docker

    if not names and not containers:
        return
    client = docker.DockerClient(base_url=engine.host)
    try:
        for each in containers:
            with suppress(APIError, OSError):
                client.api.remove_container(each, force=True)
        for each in names:
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
