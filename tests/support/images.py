"""Built images, started as production starts them: read-only, without capabilities, as their own user."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import docker
from shipyard import sbom
from shipyard.contents import Contents
from shipyard.sizes import Stream
from tests.support.service import wait_until

HARDENED = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m"},
    "pids_limit": 256,
    "mem_limit": "1g",
    "init": True,
}
#: Whether an emulator runs the images (``SHIPYARD_TEST_PLATFORM``), as tests/images/conftest.py has it.
EMULATED = os.environ.get("SHIPYARD_TEST_PLATFORM", "").rpartition("/")[2] not in (
    "",
    {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
)
#: How much longer everything may take there: Python starts eight to twelve times as slowly under qemu-user.
SLOWER = 15 if EMULATED else 1
_SECOND = 1_000_000_000
#: A target that is compiled for longer than all tests take: looked at where it is given, as by a release, and by the session
#: cuda.
CUDA = "cuda"


def given_cuda() -> list[str]:
    """The images of which a target cuda is given (``SHIPYARD_TEST_IMAGES``, see tests/images/conftest.py)."""
    given = json.loads(os.environ.get("SHIPYARD_TEST_IMAGES") or "{}")
    return [key.removesuffix(f"-{CUDA}") for key in given if key.endswith(f"-{CUDA}")]


@contextmanager
def running(client: docker.DockerClient, image: str, **options: Any) -> Iterator[Any]:
    """A hardened container; removed afterwards together with its anonymous volumes."""
    options = {**HARDENED, **options}
    if EMULATED:
        # The image's own check with more patience; what is left out is inherited.
        longer = {"timeout": 5 * SLOWER * _SECOND, "start_period": 60 * _SECOND, "test": []}
        options["healthcheck"] = {**options.get("healthcheck", {}), **longer}
    container = client.containers.run(image, detach=True, **options)
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def await_health(container: Any, seconds: float = 40 * SLOWER) -> None:
    """Wait until the image's own HEALTHCHECK passes; the failure shows what the container said."""

    def healthy() -> bool:
        container.reload()
        assert container.status in ("created", "running"), f"{container.status}: {container.logs().decode()}"
        return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

    try:
        wait_until(healthy, f"health of {container.image.tags}", seconds)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{container.logs().decode()}\n{container.attrs['State']['Health']}") from late


def members(client: docker.DockerClient, image: str, platform: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Every member of an image's root file system with the first bytes of its content; the image need not be runnable."""
    container = client.api.create_container(image, command=["none"], platform=platform)
    try:
        stream = Stream(client.api.export(container["Id"]))
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() else None
                yield member, handle.read(64) if handle else b""
    finally:
        client.api.remove_container(container["Id"], force=True)


def unpacked(client: docker.DockerClient, image: str, platform: str, folder: Path) -> Path:
    """An image's root file system in a folder, without owners and devices; the image need not be runnable."""
    container = client.api.create_container(image, command=["none"], platform=platform)
    try:
        stream = Stream(client.api.export(container["Id"]))
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            # Not by a filter, which Debian 12's Python does not have yet.
            archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            archive.extractall(folder, members=filter(None, map(_plain, archive)))
    finally:
        client.api.remove_container(container["Id"], force=True)
    return folder


def listed(root: Path, architecture: str) -> dict[str, list[str]]:
    """What a bill of materials lists of an unpacked image: ``name version`` with its licences."""
    patterns = ("var/lib/dpkg/status", "var/lib/dpkg/status.d/*", "usr/lib/os-release", "usr/share/doc/*/copyright")
    paths = [path for each in (*patterns, "**/*.dist-info/METADATA") for path in root.glob(each) if path.is_file()]
    files = {path.relative_to(root).as_posix(): path.read_text() for path in paths}
    found = [each.component for each in sbom.installed(Contents(files), architecture, "", "")]
    return {f"{each.name} {each.version}": sorted(map(_licence, each.licenses)) for each in found}


def _licence(stated: Any) -> str:
    return str(stated.value if hasattr(stated, "value") else stated.id or stated.name)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Ours, and so that we may read it and write below it; links stay as they are, even to where nothing is."""
    if member.isdev():
        return None
    member.mode |= 0o700 if member.isdir() else 0o600
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    return member


def api_keys(folder: Path) -> tuple[str, dict[str, Any]]:
    """A generated client key and the options that give its digest to a service as a file."""
    key = f"llmc-{secrets.token_hex(16)}"
    path = folder / "api_keys"
    path.write_text(f"test:{hashlib.sha256(key.encode()).hexdigest()}\n")
    path.chmod(0o444)
    return key, {"volumes": {str(path): {"bind": "/run/secrets/keys", "mode": "ro"}}}
