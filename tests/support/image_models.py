"""A built image's own llama-server with the tests' tiny model, asked over a port of 127.0.0.1."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from tests.support import tiny_model
from tests.support.images import SLOWER, running
from tests.support.service import wait_until

#: A container takes up to this many seconds until its model answers.
SECONDS = 60 * SLOWER


@contextmanager
def serving(
    client: docker.DockerClient, image: str, folder: Path, port: int, **options: Any
) -> Iterator[tuple[Any, str]]:
    """A hardened container with ``folder``'s tiny model below /models, and the address of its ``port``; without any GPU."""
    tiny_model.write(folder / "tiny.gguf")
    folder.chmod(0o755)
    (folder / "tiny.gguf").chmod(0o444)
    volumes = {str(folder): {"bind": "/models", "mode": "ro"}}
    ports = {f"{port}/tcp": ("127.0.0.1", None)}
    with running(client, image, volumes=volumes, ports=ports, tmpfs={}, **options) as container:
        wait_until(lambda: _mapped(container, port), "the container's port", SECONDS)
        address = f"http://127.0.0.1:{_mapped(container, port)}"
        try:
            wait_until(lambda: _healthy(address), "llama-server's health", SECONDS)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{container.logs().decode()}") from late
        yield container, address


def _mapped(container: Any, port: int) -> str:
    container.reload()
    assert container.status in ("created", "running"), f"{container.status}: {container.logs().decode()}"
    found = container.attrs["NetworkSettings"]["Ports"].get(f"{port}/tcp")
    return str(found[0]["HostPort"]) if found else ""


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=SECONDS) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def chat(address: str, tokens: int = 4) -> dict[str, Any]:
    """The model's answer on the OpenAI wire."""
    question = {"model": "tiny", "max_tokens": tokens, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        found: dict[str, Any] = json.loads(response.read())
        return found
