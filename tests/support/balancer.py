"""The balancer's container and instances behind it (tests/support/balanced.py), on a network that a test makes."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import docker
from tests.support.images import await_health, running
from tests.support.service import wait_until
from tests.support.stack import ROOT

DOUBLES = {str(ROOT / "tests/support"): {"bind": "/doubles", "mode": "ro"}}
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


class Published:
    """A container with one port that is published on 127.0.0.1."""

    def __init__(self, container: Any, port: int = 8001) -> None:
        self.container = container
        self._port = f"{port}/tcp"

    @property
    def port(self) -> int:
        """The published port; it is another one after a restart."""
        self.container.reload()
        return int(self.container.ports[self._port][0]["HostPort"])

    @contextmanager
    def open(
        self, method: str, path: str, body: bytes | None = None, wish: Mapping[str, Any] | None = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, sent | ({"x-wish": json.dumps(wish)} if wish else {}))
            response = connection.getresponse()
            yield response
            response.close()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **options: Any) -> tuple[int, Any]:
        with self.open(method, path, body, **options) as response:
            return response.status, json.loads(response.read())


class Instance(Published):
    """One of those behind the balancer, asked directly."""

    def seen(self, name: str) -> int:
        return int(self.ask("GET", "/seen")[1][name])

    def ready(self) -> bool:
        try:
            return self.seen("requests") >= 0
        except (OSError, http.client.HTTPException):
            return False

    def answer(self, status: int) -> None:
        """What the balancer's health check gets from now on."""
        self.ask("PUT", f"/accepting/{status}")


class Balancer(Published):
    """The entrance, with the instances behind it that a test knows of."""

    def __init__(self, container: Any, instances: Sequence[Instance] = ()) -> None:
        super().__init__(container)
        self.instances = list(instances)

    def count(self) -> int:
        """How many instances get new requests."""
        return int(self.ask("GET", "/health/balancer")[1]["instances"])

    def await_count(self, count: int, seconds: float = 15) -> None:
        wait_until(lambda: self.count() == count, f"{count} instances in rotation", seconds)

    def total(self, name: str = "requests") -> int:
        return sum(each.seen(name) for each in self.instances)

    def busy(self) -> Instance:
        """Wait for the one instance that has a request now."""

        def found() -> list[Instance]:
            return [each for each in self.instances if each.seen("open")]

        return wait_until(found, "an instance with a request")[0]  # type: ignore[no-any-return]

    def lines(self) -> list[dict[str, Any]]:
        """The log's lines."""
        return [json.loads(line) for line in self.container.logs(stderr=False).decode().splitlines()]

    def connect(self, request: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        # A head that is too large is refused, and the connection closed, before it is there as a whole.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(request)
        return client

    def raw(self, request: bytes) -> bytes:
        """Everything that comes back for these bytes, until the balancer closes or says nothing more."""
        found = b""
        with self.connect(request) as client:
            client.settimeout(2)
            try:
                while chunk := client.recv(65536):
                    found += chunk
            except (TimeoutError, ConnectionResetError):
                pass
        return found


@contextmanager
def instance(
    client: docker.DockerClient,
    image: str,
    network: str,
    aliases: Sequence[str],
    *words: str,
    port: int = 8001,
    **more: Any,
) -> Iterator[Instance]:
    """A container of the image with Python in it, found by its aliases."""
    endpoint = client.api.create_endpoint_config(aliases=list(aliases))
    options = {
        "network": network,
        "networking_config": {network: endpoint},
        "command": ["python3", "/doubles/balanced.py", "--name", secrets.token_hex(4), "--port", str(port), *words],
        "volumes": {**DOUBLES, **more.pop("volumes", {})},
        "ports": {f"{port}/tcp": ("127.0.0.1", None)},
        "healthcheck": {"test": ["NONE"]},
    }
    with running(client, image, **{**options, **more}) as container:
        found = Instance(container, port)
        if "--socket" not in words:
            wait_until(found.ready, "an instance", 20)
        yield found


@contextmanager
def balancer(client: docker.DockerClient, image: str, network: str, alias: str, **more: Any) -> Iterator[Balancer]:
    options = {
        "network": network,
        "environment": {"BALANCER_INSTANCES": alias},
        "dns": ["127.0.0.1"],  # what the engine does not know is asked nowhere else
        "ports": {"8001/tcp": ("127.0.0.1", None)},
        "mem_limit": "256m",
    }
    with running(client, image, **{**options, **more}) as container:
        await_health(container)
        yield Balancer(container)


@contextmanager
def cluster(client: docker.DockerClient, images: Mapping[str, str], network: str, size: int) -> Iterator[Balancer]:
    """A balancer and so many instances, all of them in rotation."""
    alias = f"api-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        found = stack.enter_context(balancer(client, images["balancer"], network, alias))
        for _ in range(size):
            found.instances.append(stack.enter_context(instance(client, images["api"], network, [alias])))
        found.await_count(size)
        yield found
