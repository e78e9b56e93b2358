"""A proxy before a registry that misbehaves as told, and a token service that a real registry trusts."""

from __future__ import annotations

import base64
import datetime
import http.client
import ipaddress
import json
import re
import secrets
import select
import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


@dataclass
class Fault:
    """What happens ``times`` times to requests of a method whose path has a match of ``text``, to each ``every``-th of them.

    ``kind`` is status, lost-upload (what a registry says that forgot it), cut-request (in the middle of its body),
    cut-answer (in the middle of its body), digest (a header with a wrong one), or one of ``GARBLED``.
    """

    method: str
    text: str
    kind: str
    times: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    every: int = 1
    met: int = 0


#: What a broken cache, proxy or cable makes of an answer: no HTTP at all, a head that ends early, other bytes of the same
#: length, no bytes, a page for people, JSON that says something else, a status that means nothing here, lost headers.
GARBLED = ("no-http", "half-head", "noise", "nothing", "web-page", "other-json", "teapot", "no-headers")
_PAGE = b"<!doctype html><title>Please log in</title>"
_SAID = {
    "status": b'{"errors": [{"code": "NO", "message": "not now"}]}',
    "lost-upload": b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "which one?"}]}',
}


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a registry, but for what ``faults`` say; ``seen`` has method, path and headers of each.

    With ``referrers`` it has the Referrers API (distribution specification 1.1), which Debian's docker-registry lacks;
    a list has one manifest a page.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.referrers = False
        self.attached: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for each in self.faults:
                if each.method == method and each.times and re.search(each.text, path):
                    each.met += 1
                    if each.met % each.every == 0:
                        each.times -= 1
                        return each
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        fault = self.server.fault(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.kind == "cut-request":
            self.rfile.read(length // 2)
            self._cut()
            return
        body = self.rfile.read(length)
        if fault and fault.kind in _SAID:
            self._answer(fault.status, fault.headers, _SAID[fault.kind])
            return
        if self.server.referrers and self.command == "GET" and "/referrers/" in self.path:
            self._referrers()
            return
        connection = http.client.HTTPConnection(self.server.upstream, timeout=20)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self._cut()
            return
        finally:
            connection.close()
        headers = {
            name: value for name, value in answer.getheaders() if name not in ("Transfer-Encoding", "Connection")
        }
        if self.server.referrers and self.command == "PUT" and "/manifests/" in self.path and answer.status == 201:
            headers |= self._attach(body, headers["Docker-Content-Digest"])
        if fault and fault.kind == "digest":
            headers["Docker-Content-Digest"] = "sha256:" + secrets.token_hex(32)
        if fault and fault.kind in GARBLED:
            self._garbled(fault.kind, answer.status, headers, data)
            return
        self._answer(answer.status, headers, data, cut=bool(fault and fault.kind == "cut-answer"))

    def _garbled(self, kind: str, status: int, headers: dict[str, str], data: bytes) -> None:
        if kind in ("no-http", "half-head"):
            self.wfile.write(secrets.token_bytes(200) if kind == "no-http" else b"HTTP/1.1 200 OK\r\nContent-Le")
            self._cut()
            return
        length = {"Content-Length"} if kind in ("noise", "web-page", "nothing", "other-json") else set()
        kept = {name: value for name, value in headers.items() if name not in length}
        if kind == "web-page":
            kept["Content-Type"] = "text/html"
        if kind == "no-headers":
            kept = {"Content-Length": headers.get("Content-Length", str(len(data)))}
        other = {"noise": secrets.token_bytes(len(data)), "web-page": _PAGE, "nothing": b"", "other-json": b"[1, 2]"}
        self._answer(418 if kind == "teapot" else status, kept, other.get(kind, data))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any

    def _attach(self, body: bytes, digest: str) -> dict[str, str]:
        """Remember a manifest that has a subject; the header that tells a client not to keep a list of its own."""
        document = json.loads(body)
        if "subject" not in document:
            return {}
        subject = str(document["subject"]["digest"])
        kind = document.get("artifactType") or document["config"]["mediaType"]
        made = {"mediaType": document["mediaType"], "digest": digest, "size": len(body), "artifactType": kind}
        listed = self.server.attached.setdefault(subject, [])
        if made not in listed:
            listed.append(made)
        return {"OCI-Subject": subject}

    def _referrers(self) -> None:
        address = urlsplit(self.path)
        every = self.server.attached.get(address.path.rpartition("/")[2], [])
        page = int(parse_qs(address.query).get("page", ["0"])[0])
        headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        if page + 1 < len(every):
            headers["Link"] = f'<{address.path}?page={page + 1}>; rel="next"'
        index = {"schemaVersion": 2, "mediaType": headers["Content-Type"], "manifests": every[page : page + 1]}
        self._answer(200, headers, json.dumps(index).encode())

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._cut()

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the tests look at ``seen``."""


@contextmanager
def _serving(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before the registry at ``upstream`` (HOST:PORT)."""
    with _serving(Proxy(upstream)) as found:
        yield found


def certificate(address: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A key and a certificate for an IP address that is its own authority."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, made


def tls(folder: Path, address: str) -> dict[str, Any]:
    """Settings of a registry that speaks HTTPS at HOST:PORT; SSL_CERT_FILE may name their ``certificate``."""
    key, made = certificate(address.rpartition(":")[0])
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"certificate": str(folder / "tls.pem"), "key": str(folder / "tls.key")}
    Path(paths["certificate"]).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    Path(paths["key"]).write_bytes(pem)
    return {"http": {"addr": address, "tls": paths}}


class TokenService(ThreadingHTTPServer):
    """Gives tokens to a user with a password, for what he asks (distribution's "Token Authentication Specification").

    ``seconds`` is how long a token holds; ``asked`` has the scopes of each request.
    """

    daemon_threads = True

    def __init__(self, folder: Path, user: str, password: str, seconds: float = 60) -> None:
        super().__init__(("127.0.0.1", 0), _Tokens)
        self.basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.seconds, self.asked, self.given = seconds, list[list[str]](), list[str]()
        self._key, self._certificate = certificate("127.0.0.1")
        folder.mkdir(parents=True, exist_ok=True)
        self.bundle = folder / "authority.pem"
        self.bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a registry that trusts this service."""
        realm = f"http://127.0.0.1:{self.server_address[1]}/token"
        token = {"realm": realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(self.bundle)}
        return {"auth": {"token": token}}

    def token(self, scopes: list[str]) -> str:
        """A JSON Web Token that grants everything it is asked for."""
        now = time.time()
        access = [dict(zip(("type", "name", "actions"), each.split(":"), strict=True)) for each in scopes]
        claims = {
            "iss": "tests",
            "sub": "tests",
            "aud": "tests",
            # The registry allows a minute of difference between clocks.
            "exp": int(now + self.seconds),
            "nbf": int(now) - 300,
            "iat": int(now),
            "jti": secrets.token_hex(8),
            "access": [{**each, "actions": each["actions"].split(",")} for each in access],
        }
        der = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        parts = [_url64(json.dumps(each).encode()) for each in ({"typ": "JWT", "alg": "RS256", "x5c": [der]}, claims)]
        signature = self._key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        self.given.append(".".join([*parts, _url64(signature)]))
        return self.given[-1]


class _Tokens(BaseHTTPRequestHandler):
    server: TokenService

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        self.server.asked.append(scopes)
        right = self.headers.get("Authorization") == self.server.basic
        # A careless service tells in its error what it was sent.
        said = {"errors": [{"code": "UNAUTHORIZED", "message": f"no: {self.headers.get('Authorization')}"}]}
        data = json.dumps({"token": self.server.token(scopes)} if right else said).encode()
        self.send_response_only(200 if right else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the tests look at ``asked``."""


@contextmanager
def token_service(folder: Path, user: str, password: str, seconds: float = 60) -> Iterator[TokenService]:
    """A token service on 127.0.0.1."""
    with _serving(TokenService(folder, user, password, seconds)) as found:
        yield found


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tunnel(socketserver.ThreadingTCPServer):
    """A proxy for CONNECT (RFC 9110, 9.3.6); ``asked`` has the place and the login of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunneled)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, str]] = []


class _Tunneled(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        place = self.rfile.readline().split()[1].decode()
        lines = iter(lambda: self.rfile.readline().strip().decode(), "")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert isinstance(self.server, Tunnel)
        self.server.asked.append((place, headers.get("proxy-authorization", "")))
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as beyond:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            other = {self.connection: beyond, beyond: self.connection}
            while ready := select.select(list(other), [], [], 10)[0]:
                for each in ready:
                    data = each.recv(65536)
                    if not data:
                        return
                    other[each].sendall(data)


@contextmanager
def tunnel() -> Iterator[Tunnel]:
    """A running ``Tunnel``."""
    with Tunnel() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()
