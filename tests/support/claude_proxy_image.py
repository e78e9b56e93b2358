"""The Claude proxy's image as in production, but that the Messages API is a double beside it; asked from inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from tests.support.claude_proxy_process import DOUBLE
from tests.support.images import await_health, running
from tests.support.service import wait_until

KEY = "sk-of-this-test"
#: Asks for a chat from inside the container, where only its own Python is.
CHAT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 3010, timeout=60)
body = {"model": "max/sonnet", "messages": [{"role": "user", "content": sys.argv[2]}]}
connection.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": "Bearer " + sys.argv[1]})
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


@contextmanager
def serving(
    client: docker.DockerClient, reference: str, folder: Path, environment: dict[str, str] | None = None, **options: Any
) -> Iterator[Any]:
    """A container that answers; ``folder`` is for its keys, ``options`` are those of docker's ``containers.run``."""
    folder.chmod(0o755)
    keys = folder / "keys"
    keys.write_text(f"worker:{hashlib.sha256(KEY.encode()).hexdigest()} tools=Bash")
    keys.chmod(0o444)
    user = client.images.get(reference).attrs["Config"]["User"].split(":")[0]
    mounts = {str(keys): "/run/secrets/keys", str(DOUBLE): "/opt/messages_api.py"}
    settings = {
        "CLAUDE_PROXY_KEYS_FILE": "/run/secrets/keys",
        "CLAUDE_PROXY_SANDBOX": "required",
        "ANTHROPIC_API_KEY": "sk-any",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9100",
    }
    given = {
        "environment": settings | (environment or {}),
        "volumes": {source: {"bind": target, "mode": "ro"} for source, target in mounts.items()},
        "tmpfs": {"/tmp": "rw,noexec,nosuid,size=64m", "/workspace": f"rw,nosuid,size=64m,uid={user},mode=0700"},
        "network_mode": "none",
        **options,
    }
    with running(client, reference, **given) as container:
        await_health(container)
        container.exec_run(["python3", "/opt/messages_api.py", "--port", "9100"], detach=True)
        wait_until(lambda: chat(container, "hello")[0] == 200, "an answer of the CLI", 20)
        yield container


def chat(container: Any, text: str) -> tuple[int, Any]:
    """The status and the document that a chat is answered with."""
    status, output = container.exec_run(["python3", "-c", CHAT, KEY, text])
    assert status == 0, output.decode()
    answer, body = json.loads(output)
    return answer, body


def bash(container: Any, command: str) -> tuple[int, Any]:
    """The same where the real CLI's own Bash runs a command, of which the double repeats what it printed."""
    return chat(container, f"[[tool=Bash {json.dumps({'command': command})}]]")


def said(answer: tuple[int, Any]) -> str:
    """The text of an answer."""
    status, body = answer
    assert status == 200, body
    return str(body["choices"][0]["message"]["content"])
