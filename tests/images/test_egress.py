"""The egress gateway at work: one upstream, two paths, a credential that only it knows, and nothing else gets through."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard.models import Project
from tests.support.images import await_health, running
from tests.support.service import wait_until
from tests.support.stack import ROOT

KEY = f"sk-ant-api03-{secrets.token_hex(16)}"
TOKEN = f"sk-ant-oat01-{secrets.token_hex(16)}"
SECRET = "/run/secrets/anthropic_api_key"
MESSAGES = "/v1/messages?beta=true"


class Gateway:
    """A running gateway with its published port, its secret's file and its upstream."""

    def __init__(self, container: Any, secret: Path, echo: Any = None) -> None:
        self.container, self.secret, self.echo = container, secret, echo
        container.reload()
        self.port = int(container.ports["8080/tcp"][0]["HostPort"])

    @contextmanager
    def open(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Iterator[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        with self.open(method, path, body, **headers) as response:
            return response.status, json.loads(response.read())

    def raw(self, request: bytes) -> bytes:
        """Everything that comes back for these bytes, until the gateway closes or says nothing more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
            client.sendall(request)
            found = b""
            try:
                while chunk := client.recv(65536):
                    found += chunk
            except (TimeoutError, ConnectionResetError):
                pass
            return found

    def served(self) -> int:
        """How many requests have reached the upstream."""
        host, port = self.echo.ports["9100/tcp"][0].values()
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("GET", "/count")
            return int(json.loads(connection.getresponse().read())["served"])
        finally:
            connection.close()

    def lines(self) -> list[dict[str, Any]]:
        """The log's lines."""
        return [json.loads(line) for line in self.container.logs(stderr=False).decode().splitlines()]


@pytest.fixture(scope="module")
def images(project: Project, engine: Any) -> dict[str, str]:
    built = shipyard.images.build(project, engine, shipyard.images.Request(images=("api", "egress")))
    return {result.name: result.reference for result in built}


@pytest.fixture(scope="module")
def network(client: docker.DockerClient) -> Iterator[str]:
    made = client.networks.create(f"egress-test-{secrets.token_hex(4)}")
    yield made.name
    made.remove()


@contextmanager
def upstream(client: docker.DockerClient, images: dict[str, str], network: str, name: str, *more: str) -> Iterator[Any]:
    """The echo as a container with this name on the network; its folder may hold a certificate."""
    volumes = {str(ROOT / "tests/support"): {"bind": "/doubles", "mode": "ro"}}
    for folder in more:
        volumes[folder] = {"bind": "/tls", "mode": "ro"}
    command = ["python3", "/doubles/echo.py", "--port", "9100"]
    command += ["--tls", "/tls/server.pem", "/tls/server.key"] if more else []
    options = {"healthcheck": {"test": ["NONE"]}, "ports": {"9100/tcp": ("127.0.0.1", None)}}
    with running(
        client, images["api"], name=name, network=network, command=command, volumes=volumes, **options
    ) as container:
        listening = "import socket;socket.create_connection(('127.0.0.1',9100),1)"
        wait_until(lambda: container.exec_run(["python3", "-c", listening]).exit_code == 0, "the echo", 20)
        container.reload()
        yield container


@contextmanager
def gateway(
    client: docker.DockerClient, images: dict[str, str], network: str, folder: Path, credential: str, **env: str
) -> Iterator[Gateway]:
    secret = folder / "anthropic_api_key"
    secret.write_text(credential)
    secret.chmod(0o444)
    volumes = {str(secret): {"bind": SECRET, "mode": "ro"}}
    if "EGRESS_CA_FILE" in env:
        volumes[env["EGRESS_CA_FILE"]] = {"bind": "/run/secrets/egress_ca", "mode": "ro"}
        env["EGRESS_CA_FILE"] = "/run/secrets/egress_ca"
    environment = {"EGRESS_PORT": "9100", "EGRESS_TLS": "off", **env}
    options = {"volumes": volumes, "network": network, "ports": {"8080/tcp": ("127.0.0.1", None)}}
    with running(client, images["egress"], environment=environment, **options) as container:
        await_health(container)
        yield Gateway(container, secret)


@pytest.fixture(scope="module")
def egress(
    client: docker.DockerClient, images: dict[str, str], network: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with an API key in front of the echo."""
    name = f"echo-{secrets.token_hex(4)}"
    folder = tmp_path_factory.mktemp("egress")
    with (
        upstream(client, images, network, name) as echo,
        gateway(client, images, network, folder, KEY + "\n", EGRESS_HOST=name) as found,
    ):
        found.echo = echo
        wait_until(lambda: found.ask("POST", MESSAGES, b"{}")[0] == 200, "the upstream's address")
        yield found


def headers(answer: Any) -> dict[str, str]:
    """The upstream's view of the headers, joined as RFC 9110 joins them."""
    found: dict[str, str] = {}
    for name, value in answer["headers"]:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


@pytest.mark.parametrize("path", [MESSAGES, "/v1/messages", "/v1/messages/count_tokens?beta=true"])
def test_the_messages_api_passes_with_the_key(egress: Gateway, path: str) -> None:
    egress.secret.write_text(KEY + "\n")
    status, answer = egress.ask("POST", path, b'{"a": 1}', x_api_key="the-client's", authorization="Bearer client's")
    assert (status, answer["line"], answer["bytes"]) == (200, f"POST {path} HTTP/1.1", 8)
    found = headers(answer)
    assert found["x-api-key"] == KEY
    assert "authorization" not in found


def test_the_host_is_the_configured_one_and_the_rest_stays_here(egress: Gateway) -> None:
    extra = {"host": "elsewhere.example", "cookie": "a=b", "x_forwarded_for": "1.2.3.4", "proxy_authorization": "x"}
    _, answer = egress.ask("POST", MESSAGES, b"{}", **extra, anthropic_version="2023-06-01")
    found = headers(answer)
    assert found["host"].startswith("echo-")
    assert found["anthropic-version"] == "2023-06-01"
    assert not {"cookie", "x-forwarded-for", "proxy-authorization"} & set(found)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([], "oauth-2025-04-20"),
        (["one,two"], "one,two,oauth-2025-04-20"),
        (["one", "two"], "one,two,oauth-2025-04-20"),
        (["one, oauth-2025-04-20"], "one,oauth-2025-04-20"),
    ],
    ids=["none", "list", "two lines", "already there"],
)
def test_a_token_is_used_without_a_restart(egress: Gateway, given: list[str], sent: str) -> None:
    egress.secret.write_text(TOKEN + "\n")
    try:
        lines = "".join(f"anthropic-beta: {value}\r\n" for value in given)
        request = f"POST {MESSAGES} HTTP/1.1\r\nhost: x\r\nx-api-key: mine\r\n{lines}content-length: 2\r\n\r\n{{}}"
        answer = json.loads(egress.raw(request.encode()).partition(b"\r\n\r\n")[2])
    finally:
        egress.secret.write_text(KEY + "\n")
    found = headers(answer)
    assert found["authorization"] == f"Bearer {TOKEN}"
    assert found["anthropic-beta"] == sent
    assert "x-api-key" not in found


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "caf\u00e9\n"], ids=["empty", "blank", "words", "not ASCII"])
def test_without_a_credential_it_says_what_to_fill(egress: Gateway, text: str) -> None:
    before = egress.served()
    egress.secret.write_text(text)
    try:
        status, body = egress.ask("POST", MESSAGES, b"{}", x_api_key="the-client's")
        health = egress.ask("GET", "/health")
    finally:
        egress.secret.write_text(KEY + "\n")
    assert (status, body["error"]["type"]) == (401, "authentication_error")
    assert "secrets/egress/anthropic_api_key" in body["error"]["message"]
    assert health == (200, {"status": "ok", "credential": False})
    assert egress.ask("GET", "/health") == (200, {"status": "ok", "credential": True})
    assert egress.served() == before


BODY = b"content-length: 2\r\n\r\n{}"
SMUGGLED = b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"2\r\n{}\r\n0\r\n\r\n"
TARGETS = (
    "/", "/v1/models", "/v1/messages/", "/v1/messages/batches", "//v1/messages", "/v1/messages/../models",
    "/x/../v1/messages", "/./v1/messages", "/v1/messages%2e%2e/models", "/v1/%6dessages", "/v1/messages;x", "/V1/MESSAGES",
    "http://elsewhere.example/v1/messages", "https://api.anthropic.com/v1/messages", "http://10.0.0.1/v1/messages", "*",
)  # fmt: skip
REFUSED = {
    **{f"POST {target}": b"POST %s HTTP/1.1\r\nhost: x\r\n" % target.encode() + BODY for target in TARGETS},
    **{
        f"{method} /v1/messages": b"%s /v1/messages HTTP/1.1\r\nhost: x\r\n" % method.encode() + BODY
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "post")
    },
    "POST /health": b"POST /health HTTP/1.1\r\nhost: x\r\n" + BODY,
    "CONNECT": b"CONNECT 10.0.0.1:443 HTTP/1.1\r\nhost: 10.0.0.1:443\r\n\r\n",
    "upgrade": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n" + BODY,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "chunked": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "no length": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n\r\n",
    "CL and TE": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n"
    b"0\r\n\r\n" + SMUGGLED,
    "TE of another name": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n" + BODY,
    "blank before the colon": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n" + BODY,
    "two lengths": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 0\r\n\r\n{}"
    + SMUGGLED,
    "length with a sign": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: +2\r\n\r\n{}",
    "33 MiB": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 33554433\r\n\r\n{}",
    "head of 64 KiB": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 65536 + b"\r\n" + BODY,
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_nothing_else_reaches_the_upstream(egress: Gateway, request_: bytes) -> None:
    before = egress.served()
    answer = egress.raw(request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    statuses = [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d+)", answer, re.MULTILINE)]
    assert statuses, "no answer"
    assert set(statuses) <= {400, 403, 411, 413}, answer
    if b"application/json" in head and not request_.startswith(b"HEAD"):
        error = json.JSONDecoder().raw_decode(body.decode())[0]
        assert error["type"] == "error"
        assert error["error"]["message"]
    else:
        assert statuses == [400] or request_.startswith(b"HEAD")  # the parser's own words
    assert egress.served() == before


def test_a_stream_arrives_as_it_is_sent(egress: Gateway) -> None:
    """The second event is not sent before the first one was read: a gateway that buffers would hang here."""
    with egress.open("POST", MESSAGES, b'{"chunks": 4, "gap": 0.5}') as response:
        assert response.status == 200
        pieces = []
        while piece := response.read1(65536):
            pieces.append(piece)
    assert b"".join(pieces) == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert len(pieces) == 4


def unfinished(length: int, begin: bytes) -> bytes:
    """A request whose body has more bytes than come."""
    return b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (length, begin)


def test_an_unfinished_body_is_given_up_soon(egress: Gateway) -> None:
    before = egress.served()
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", egress.port), timeout=20) as client:
        client.sendall(unfinished(100_000, b"{"))
        assert client.recv(12) == b"HTTP/1.1 408"
    assert time.monotonic() - began < 20
    assert egress.served() == before
    with socket.create_connection(("127.0.0.1", egress.port), timeout=20) as client:
        client.sendall(unfinished(100_000, b"x" * 50_000))  # more than the buffer holds: it is on its way
        assert client.recv(9) == b"HTTP/1.1 "
    assert time.monotonic() - began < 40


def test_a_body_that_comes_slowly_but_comes_passes(egress: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", egress.port), timeout=20) as client:
        client.sendall(unfinished(120_000, b""))
        for _ in range(4):
            client.sendall(b"x" * 30_000)
            time.sleep(1)
        assert client.recv(12) == b"HTTP/1.1 200"


def test_an_answer_that_takes_long_is_waited_for(egress: Gateway) -> None:
    """Longer than a client may be silent within its body."""
    with egress.open("POST", MESSAGES, b'{"chunks": 1, "gap": 12}') as response:
        assert response.read() == b"data: 0\n\n"


def test_unfinished_bodies_hold_up_nobody(egress: Gateway) -> None:
    body = b'{"chunks": 5, "gap": 0.02}'

    def seconds() -> float:
        began = time.monotonic()
        with egress.open("POST", MESSAGES, body) as response:
            assert response.read().endswith(b"data: 4\n\n")
        return time.monotonic() - began

    usual = statistics.median(seconds() for _ in range(10))
    clients: list[socket.socket] = []
    try:
        for number in range(700):
            clients.append(socket.create_connection(("127.0.0.1", egress.port), timeout=20))
            clients[-1].sendall(unfinished(100_000, (b"", b"{", b"x" * 50_000)[number % 3]))
        under = statistics.median(seconds() for _ in range(10))
    finally:
        for client in clients:
            client.close()
    assert under < 1.5 * usual, f"{under:.3f} s instead of {usual:.3f} s"


def test_nothing_is_sent_twice(egress: Gateway) -> None:
    before = egress.served()
    status, body = egress.ask("POST", MESSAGES, b'{"close": true}')
    assert (status, body["error"]["type"]) == (502, "api_error")
    assert egress.served() == before + 1


def test_it_logs_what_happened_and_no_secret(egress: Gateway) -> None:
    egress.ask("POST", "/v1/messages?beta=in-the-query", b"{}")
    egress.ask("GET", f"/v1/{(word := secrets.token_hex(8))}")
    wait_until(lambda: egress.lines()[-1]["path"] == f"/v1/{word}", "the last line")
    last = egress.lines()[-2:]
    assert [(line["method"], line["path"], line["status"], line["provider_request_id"]) for line in last] == [
        ("POST", "/v1/messages", 200, "req_echo"),
        ("GET", f"/v1/{word}", 403, ""),
    ]
    assert all(line["bytes_in"] > 0 < line["bytes_out"] and line["ts"].endswith("+00:00") for line in last)
    told = egress.container.logs().decode() + json.dumps(egress.container.attrs)
    assert [value for value in (KEY, TOKEN, "in-the-query", "the-client's") if value in told] == []


def test_an_address_may_appear_later(
    client: docker.DockerClient, images: dict[str, str], network: str, tmp_path: Path
) -> None:
    name = f"late-{secrets.token_hex(4)}"
    with gateway(client, images, network, tmp_path, KEY, EGRESS_HOST=name) as found:
        status, body = found.ask("POST", MESSAGES, b"{}")
        assert (status, body["error"]["type"]) == (503, "api_error")
        assert "EGRESS_HOST" in body["error"]["message"]
        with upstream(client, images, network, name):
            wait_until(lambda: found.ask("POST", MESSAGES, b"{}")[0] == 200, "the new address", 20)


def test_a_running_stream_ends_before_the_gateway_does(
    client: docker.DockerClient, images: dict[str, str], network: str, egress: Gateway, tmp_path: Path
) -> None:
    with gateway(client, images, network, tmp_path, KEY, EGRESS_HOST=egress.echo.name) as found:
        wait_until(lambda: found.ask("POST", MESSAGES, b"{}")[0] == 200, "the upstream's address")
        with found.open("POST", MESSAGES, b'{"chunks": 6, "gap": 0.5}') as response:
            assert response.read1(100) == b"data: 0\n\n"
            stopping = threading.Thread(target=found.container.stop, kwargs={"timeout": 20})
            stopping.start()
            assert response.read().endswith(b"data: 5\n\n")
            stopping.join()
        found.container.reload()
        assert found.container.attrs["State"]["ExitCode"] == 0


def test_an_idle_gateway_stops_at_once(
    client: docker.DockerClient, images: dict[str, str], network: str, egress: Gateway, tmp_path: Path
) -> None:
    with gateway(client, images, network, tmp_path, KEY, EGRESS_HOST=egress.echo.name) as found:
        with socket.create_connection(("127.0.0.1", found.port)) as idle:  # kept alive, it holds nothing up
            idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 200"
            found.container.stop(timeout=2)  # the engine kills after 2 s, which would end it with 137
        found.container.reload()
        assert found.container.attrs["State"]["ExitCode"] == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority (ca.pem) and a key pair for the name tls-echo (server.pem, server.key)."""
    folder = tmp_path_factory.mktemp("tls")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    ca = [*new, "-x509", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"]
    server = [*new, "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=tls-echo"]
    server += ["-addext", "subjectAltName=DNS:tls-echo", "-addext", "basicConstraints=critical,CA:FALSE"]
    for command in (ca, [*server, "-keyout", "server.key", "-out", "server.pem"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("host", "trusted", "expected"),
    [
        ("tls-echo", True, "Success"),
        ("other-echo", True, "different from the expected one"),
        ("tls-echo", False, "SSL handshake failure"),
    ],
    ids=["trusted", "wrong name", "unknown authority"],
)
def test_tls_is_verified(
    client: docker.DockerClient,
    images: dict[str, str],
    network: str,
    certificates: Path,
    tmp_path: Path,
    host: str,
    trusted: bool,
    expected: str,
) -> None:
    env = {"EGRESS_TLS": "on", "EGRESS_HOST": host, **({"EGRESS_CA_FILE": f"{certificates}/ca.pem"} if trusted else {})}
    with (
        upstream(client, images, network, host, str(certificates)),
        gateway(client, images, network, tmp_path, KEY, **env) as found,
    ):

        def said() -> str:
            """What the log says of the connections; nothing while the name is not resolved."""
            found.ask("POST", MESSAGES, b"{}")
            return str([line["connection"] for line in found.lines()])

        wait_until(lambda: expected in said(), f"{expected} in {said()}", 20)
        status, answer = found.ask("POST", MESSAGES, b"{}")
        assert status == (200 if expected == "Success" else 503), answer


def test_a_wrong_setting_is_named(client: docker.DockerClient, images: dict[str, str]) -> None:
    with running(client, images["egress"], environment={"EGRESS_TLS": "maybe"}) as container:
        assert container.wait(timeout=30)["StatusCode"] == 1
        assert "EGRESS_TLS must be on or off" in container.logs().decode()
