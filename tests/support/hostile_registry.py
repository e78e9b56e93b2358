"""A registry in memory that holds a good release, signed by a key of its own, and may say anything in place of the truth."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from shipyard import channels, config, dsse, oci
from shipyard.artifacts import Artifact
from shipyard.commands.cosign import PREDICATES, SIGNATURE
from shipyard.models import Project
from tests.support import signed

EMPTY = b"{}"


@dataclass
class Said:
    """One answer. ``drip`` are the seconds between its bytes; ``headers`` replace what would be said."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    drip: float = 0.0


Turn = Callable[[str, str, Said], Said]


class Hostile(ThreadingHTTPServer):
    """``turn`` gets method, path and the true answer of each request, and gives what is said instead.

    ``referrers`` says whether there is a Referrers API; without it attachments are listed under a tag.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.attached: dict[str, list[dict[str, Any]]] = {}
        self.referrers = True
        self.turn: Turn | None = None
        self.seen: list[tuple[str, str]] = []
        self.over = threading.Event()

    def hang(self, subject: str, bundle: bytes, *, first: bool = False, **changes: Any) -> str:
        """Attach a bundle as cosign does; returns the digest of its manifest. ``changes`` are of its descriptor."""
        layer = {"mediaType": dsse.BUNDLE, "digest": self.keep(bundle), "size": len(bundle)}
        empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": self.keep(EMPTY), "size": 2}
        about = {"mediaType": oci.INDEX, "digest": subject, "size": len(self.manifests.get(subject, b""))}
        document = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "artifactType": dsse.BUNDLE, "config": empty}
        raw = json.dumps({**document, "layers": [layer], "subject": about}).encode()
        self.manifests[oci.digest(raw)] = raw
        entry = {"mediaType": oci.MANIFEST, "digest": oci.digest(raw), "size": len(raw), "artifactType": dsse.BUNDLE}
        listed = self.attached.setdefault(subject, [])
        listed.insert(0 if first else len(listed), {**entry, **changes})
        return oci.digest(raw)

    def keep(self, data: bytes) -> str:
        """Store a blob; its digest."""
        self.blobs[oci.digest(data)] = data
        return oci.digest(data)

    def truth(self, method: str, path: str) -> Said:
        """What a good registry says."""
        place = path.partition("?")[0]
        if place == "/v2/":
            return Said(200, b"{}", {"Content-Type": "application/json"})
        parts = place.removeprefix("/v2/").rsplit("/", 2)
        name, kind, reference = parts if len(parts) == 3 else ("", "", "")
        data: bytes | None = None
        headers = {"Content-Type": "application/json"}
        if kind == "manifests":
            digest = self._named(reference)
            data = self.manifests.get(digest) or self._listed(reference)
            if data is not None:
                headers = {"Docker-Content-Digest": oci.digest(data)}
                headers["Content-Type"] = self._type(data)
        elif kind == "blobs":
            data = self.blobs.get(reference)
        elif (kind, reference) == ("tags", "list"):
            data = json.dumps({"name": name, "tags": sorted(self.tags)}).encode()
        elif kind == "referrers" and self.referrers:
            data = self._index(self.attached.get(reference, []))
        if data is None:
            return Said(404, b'{"errors": [{"code": "NOT_FOUND", "message": "not here"}]}')
        return Said(200, data, headers)

    def _type(self, data: bytes) -> str:
        try:
            return str(json.loads(data)["mediaType"]).encode("ascii", "replace").decode()[:100].partition("\n")[0]
        except (ValueError, TypeError, KeyError, RecursionError):
            return oci.MANIFEST

    def _named(self, reference: str) -> str:
        return self.tags.get(reference, reference)

    def _listed(self, reference: str) -> bytes | None:
        found = self.attached.get(reference.replace("-", ":", 1))
        return self._index(found) if found is not None and not self.referrers else None

    def _index(self, entries: list[dict[str, Any]]) -> bytes:
        return json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that had enough is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    server: Hostile
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _any(self) -> None:
        self.server.seen.append((self.command, self.path))
        said = self.server.truth(self.command, self.path)
        if self.server.turn:
            said = self.server.turn(self.command, self.path, said)
        head = [f"HTTP/1.1 {said.status} Said"]
        given = {"Content-Length": str(len(said.body)), **said.headers}
        head += [f"{name}: {value}" for name, value in given.items()]
        raw = "\r\n".join([*head, "", ""]).encode("latin-1", "replace")
        body = b"" if self.command == "HEAD" else said.body
        if not said.drip:
            self.wfile.write(raw + body)
            return
        for byte in raw[:12] + raw[12:] + body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.over.wait(said.drip):
                return

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


#: What a statement of channels says unless a test says otherwise.
SAYS: dict[str, Any] = {
    "repository": "tiny",
    "counter": 7,
    "issued": "2026-01-01T00:00:00Z",
    "expires": "2999-01-01T00:00:00Z",
}


@dataclass
class Release:
    """A good release in a hostile registry: ``checkout`` is a stranger's, with the public key alone."""

    server: Hostile
    checkout: Project
    key: ec.EllipticCurvePrivateKey
    made: dict[str, Artifact]

    def bundle(self, kind: str, digest: str, predicate: Any, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """A statement about a digest in a bundle, signed by the release's key or another one."""
        return bundle(key or self.key, kind, digest, predicate)

    def state(self, kind: str = channels.TYPE, key: ec.EllipticCurvePrivateKey | None = None, **changes: Any) -> None:
        """Put a statement of channels there; ``latest``, ``1`` and ``1.2`` are 1.2.3 unless ``tags`` says otherwise."""
        named = {"digest": self.prod.digest, "version": "1.2.3"}
        predicate = {**SAYS, "tags": dict.fromkeys(("latest", "1", "1.2"), named), **changes}
        digest = self.server.hang("sha256:" + "0" * 64, bundle(key or self.key, kind, "sha256:" + "1" * 64, predicate))
        self.server.tags[channels.TAG] = digest

    @property
    def prod(self) -> Artifact:
        """The newest image."""
        return self.made["1.2.3"]


def bundle(key: ec.EllipticCurvePrivateKey, kind: str, digest: str, predicate: Any, **envelope: Any) -> bytes:
    """A Sigstore bundle with a DSSE envelope, as cosign 3 writes it."""
    about = [{"name": "", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": about, "predicateType": kind}
    payload = json.dumps({**statement, "predicate": predicate}).encode()
    said = dsse.pre_authentication("application/vnd.in-toto+json", payload)
    sealed = base64.b64encode(key.sign(said, ec.ECDSA(SHA256()))).decode()
    signed = {"payload": base64.b64encode(payload).decode(), "payloadType": "application/vnd.in-toto+json"}
    document = {"mediaType": dsse.BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}}
    return json.dumps({**document, "dsseEnvelope": {**signed, "signatures": [{"sig": sealed}], **envelope}}).encode()


def _publish(release: Release, folder: Path, version: str, *tags: str) -> None:
    server = release.server
    made = signed.artifact(folder / "layouts", server.address, version)
    for path in (made.layout / "blobs/sha256").iterdir():
        data = path.read_bytes()
        is_manifest = data.startswith(b'{"schemaVersion"')
        (server.manifests if is_manifest else server.blobs)[oci.digest(data)] = data
    for digest in (made.digest, *(part.digest for part in made.parts)):
        server.hang(digest, release.bundle(SIGNATURE, digest, {}))
    for part in made.parts:
        said = signed.sbom(part.digest, version)
        server.hang(part.digest, release.bundle(PREDICATES["cyclonedx"], part.digest, said))
    told = signed.provenance(version)
    server.hang(made.digest, release.bundle(PREDICATES["slsaprovenance1"], made.digest, told))
    server.tags |= dict.fromkeys((version, *tags), made.digest)
    release.made[version] = made


def declare(root: Path) -> Project:
    """A checkout that declares one image of one target."""
    signed.project(root)
    path = root / "docker/images.toml"
    path.write_text(path.read_text().replace('"prod", "cuda", "dev"', '"prod", "dev"'))
    return config.load(root)


@contextmanager
def release(folder: Path) -> Iterator[Release]:
    """Versions 1.2.2 and 1.2.3 of one image, both signed; ``latest``, ``1`` and ``1.2`` name the newer one."""
    key = ec.generate_private_key(ec.SECP256R1())
    checkout = declare(folder / "checkout")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    (checkout.root / "cosign.pub").write_bytes(pem)
    server = Hostile()
    found = Release(server, checkout, key, {})
    _publish(found, folder, "1.2.2")
    _publish(found, folder, "1.2.3", "1.2", "1", "latest")
    found.state()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
