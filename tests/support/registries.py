"""Real registries (Debian's docker-registry) with every way to log in, and small images made by hand to push there."""

from __future__ import annotations

import base64
import ctypes
import gzip
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import shipyard
from shipyard import oci
from shipyard.artifacts import Artifact
from shipyard.engine import packages
from shipyard.layouts import Layout
from tests.support.service import wait_until
from tests.support.stack import free_ports

PLATFORMS = ("linux/amd64", "linux/arm64")


class Served:
    """A docker-registry of a test's own: its process, its storage and its log, where each answered request is a line."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], port: int = 0) -> None:
        self.folder, self.port = folder, port or free_ports(1)[0]
        # Settings may say where it listens, which is then to be free.
        self.address = str(settings.get("http", {}).get("addr", f"127.0.0.1:{self.port}"))
        self.storage = folder / "storage"
        self.log = folder / "log"
        if not packages.folder().exists():
            with shipyard.engine.lock("unpacking the registry"):
                packages.ensure()
        self._program = packages.binaries() / "docker-registry"
        self.configure(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, settings: Mapping[str, Any]) -> None:
        """What holds from the next start on; ``settings`` are sections of its configuration."""
        document = {
            "version": "0.1",
            "log": {"accesslog": {"disabled": True}, "formatter": "json", "level": "info"},
            "http": {"addr": self.address, "secret": "the same after a restart"},
            **settings,
        }
        storage = {"filesystem": {"rootdirectory": str(self.storage)}, **document.get("storage", {})}
        self.folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        (self.folder / "config.yml").write_text(json.dumps({**document, "storage": storage}))

    def start(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        with self.log.open("ab") as log:
            argv = [self._program, "serve", self.folder / "config.yml"]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        wait_until(self._up, f"the registry: {self.log.read_text()[-2000:]}")

    def _up(self) -> bool:
        assert self._process and self._process.poll() is None, self.log.read_text()[-2000:]
        host, _, port = self.address.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path with query and status of every request that was answered."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if '"response completed"' in line]
        return [
            (each["http.request.method"], each["http.request.uri"], each["http.response.status"])
            for each in lines
            if each["http.request.uri"] != "/"
        ]

    def writes(self) -> list[tuple[str, str, int]]:
        """The requests that were no reads."""
        return [each for each in self.requests() if each[0] not in ("GET", "HEAD")]

    def blob(self, digest: str) -> Path:
        """Where it keeps the bytes of a digest: a test may change them behind its back."""
        hexadecimal = digest.partition(":")[2]
        return self.storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


@contextmanager
def running(folder: Path, settings: Mapping[str, Any] | None = None, port: int = 0) -> Iterator[Served]:
    """A registry below ``folder`` on a free port of 127.0.0.1, ended with the block; ``settings`` go into its config."""
    found = Served(folder, settings or {}, port)
    try:
        found.start()
        yield found
    finally:
        with suppress(ProcessLookupError):
            found.kill()


def htpasswd(folder: Path, user: str, password: str) -> dict[str, Any]:
    """Settings of a registry that wants this password."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    # "$2y$" is bcrypt, the only kind that docker-registry takes; 4 is the least work.
    line = library.crypt(password.encode(), f"$2y$04${secrets.token_hex(11)}".encode()).decode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(f"{user}:{line}\n")
    return {"auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}}


#: Settings of a registry that takes no writes.
READ_ONLY: dict[str, Any] = {"storage": {"maintenance": {"readonly": {"enabled": True}}}}


def login(monkeypatch: Any, folder: Path, user: str, password: str) -> None:
    """Give a login the way that a pipeline does: a variable and a file."""
    path = folder / f"password-{secrets.token_hex(4)}"
    path.write_text(password + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("SHIPYARD_REGISTRY_USERNAME", user)
    monkeypatch.setenv("SHIPYARD_REGISTRY_PASSWORD_FILE", str(path))


def docker_login(folder: Path, address: str, user: str, password: str) -> Path:
    """What `docker login` leaves behind; the folder is for DOCKER_CONFIG."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    return folder


def _put(folder: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = oci.digest(data)
    path = folder / "blobs" / digest.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _layer(text: bytes) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member = tarfile.TarInfo("hello")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return gzip.compress(plain.getvalue(), 1, mtime=0)


def _image(folder: Path, platform: str, text: bytes, labels: Mapping[str, str]) -> dict[str, Any]:
    system, architecture = platform.split("/")
    layers = [_layer(b"the same on every platform"), _layer(platform.encode() + b"\n" + text)]
    config = {
        "os": system,
        "architecture": architecture,
        "config": {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [oci.digest(gzip.decompress(each)) for each in layers]},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": _put(folder, json.dumps(config).encode(), oci.CONFIG),
        "layers": [_put(folder, each, "application/vnd.oci.image.layer.v1.tar+gzip") for each in layers],
    }
    found = _put(folder, json.dumps(document).encode(), oci.MANIFEST)
    return {**found, "platform": {"os": system, "architecture": architecture}}


def layout(
    folder: Path,
    *,
    text: bytes = b"",
    platforms: tuple[str, ...] = PLATFORMS,
    labels: Mapping[str, str] | None = None,
    single: bool = False,
) -> Layout:
    """Write an OCI image layout as bake's exporter does; equal arguments give equal bytes. ``single`` has no index."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [_image(folder, each, text, labels or {}) for each in platforms]
    top = images[0]
    if not single:
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": images}
        top = _put(folder, json.dumps(index).encode(), oci.INDEX)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return Layout(folder)


def artifact(
    folder: Path, address: str, name: str = "tiny", target: str = "prod", version: str = "1.2.3", **options: Any
) -> Artifact:
    """An image made by ``layout``, to be pushed to ``address`` as ``NAME:VERSION``."""
    found = layout(folder, **options)
    tag = shipyard.tags.tag(version, target)
    return Artifact(name, target, f"{address}/{name}", tag, found.digest, folder, found.parts())
