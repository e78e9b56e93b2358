"""Each production image at work, hardened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import docker
from shipyard.models import BuildResult
from tests.support.images import api_keys, await_health, running
from tests.support.service import wait_until
from tests.support.stack import ROOT

Built = dict[tuple[str, str], BuildResult]
#: Asks a service from inside its container, where only its own Python is.
ASK = (
    "import http.client,json,sys;c=http.client.HTTPConnection('127.0.0.1',int(sys.argv[1]));"
    "c.request('GET',sys.argv[2],headers={'authorization':'Bearer '+sys.argv[3]});r=c.getresponse();"
    "print(json.dumps([r.status,json.loads(r.read())]))"
)


def ask(container: Any, port: int, path: str, key: str = "") -> tuple[int, Any]:
    status, output = container.exec_run(["python3", "-c", ASK, str(port), path, key])
    assert status == 0, output.decode()
    answer, body = json.loads(output)
    return answer, body


def python(container: Any, code: str) -> str:
    status, output = container.exec_run(["python3", "-c", code])
    assert status == 0, output.decode()
    return str(output.decode().strip())


@pytest.fixture
def api(client: docker.DockerClient, built: Built, tmp_path: Path) -> Any:
    key, options = api_keys(tmp_path)
    environment = {"LLM_CALL_KEYS_FILE": "/run/secrets/keys"}
    with running(client, built["api", "prod"].reference, environment=environment, **options) as container:
        await_health(container)
        yield container, key


@pytest.fixture
def proxy(client: docker.DockerClient, built: Built, tmp_path: Path) -> Any:
    key, options = api_keys(tmp_path)
    environment = {"CLAUDE_PROXY_KEYS_FILE": "/run/secrets/keys"}
    tmpfs = {"/tmp": "rw,noexec,nosuid,size=64m", "/workspace": "rw,nosuid,size=64m,uid=10004,gid=10004,mode=0700"}
    reference = built["claude-proxy", "prod"].reference
    with running(client, reference, environment=environment, tmpfs=tmpfs, **options) as container:
        await_health(container)
        yield container, key


def test_api_answers_those_who_have_a_key(api: Any) -> None:
    container, key = api
    status, body = ask(container, 8001, "/v1/models", key)
    assert (status, body["object"]) == (200, "list")
    assert "max/opus" in {model["id"] for model in body["data"]}
    assert ask(container, 8001, "/v1/models", "wrong")[0] == 401
    assert ask(container, 8001, "/health/live")[0] == 200


def test_api_refuses_to_start_without_keys(client: docker.DockerClient, built: Built) -> None:
    with running(client, built["api", "prod"].reference) as container:
        assert container.wait(timeout=30)["StatusCode"] == 78
        assert "LLM_CALL_KEYS_FILE" in container.logs().decode()


def test_api_cannot_write_and_is_not_root(api: Any) -> None:
    container, _ = api
    assert python(container, "import os;print(os.getuid(), os.getgid())") == "10001 10001"
    refused = python(
        container, "import errno\ntry: open('/app/x','w')\nexcept OSError as e: print(errno.errorcode[e.errno])"
    )
    assert refused == "EROFS"
    assert (
        python(container, "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')][0])")
        == "0" * 16
    )


def test_api_trusts_debian_s_certificates(api: Any) -> None:
    container, _ = api
    assert int(python(container, "import ssl;print(len(ssl.create_default_context().get_ca_certs()))")) > 100


def test_api_compiles_nothing_at_run_time(api: Any) -> None:
    """Every module that the service loaded came from a cached file: the root is read-only, so none could be written."""
    container, _ = api
    code = """
import os, sys
import llm_call.api.app
specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
files = [spec for spec in specs if spec and spec.origin != "frozen" and (spec.origin or "").endswith(".py")]
print([spec.name for spec in files if not os.path.exists(spec.cached or "")])
"""
    assert python(container, code) == "[]"


def test_api_stops_at_once_when_idle(api: Any) -> None:
    container, _ = api
    container.stop(timeout=8)  # the engine kills after 8 s, which would end it with 137
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0


def test_claude_proxy_holds_the_pinned_cli(proxy: Any) -> None:
    container, _ = proxy
    pinned = json.loads((ROOT / "docker/claude-proxy/package.json").read_text())["optionalDependencies"]
    status, output = container.exec_run(["claude", "--version"])
    assert status == 0, output.decode()
    assert output.decode().split()[0] in pinned.values()


@pytest.mark.native("qemu-user knows no child subreaper, without which the proxy starts no CLI, and is not ready")
def test_claude_proxy_names_the_missing_login(proxy: Any) -> None:
    container, _ = proxy
    status, body = ask(container, 3010, "/health/ready")
    assert (status, body["status"]) == (200, "degraded")
    assert "ANTHROPIC_API_KEY_FILE" in json.dumps(body)


def test_claude_proxy_has_the_tools_that_the_cli_needs(proxy: Any) -> None:
    container, _ = proxy
    script = (
        "set -eu; export HOME=/workspace; cd /workspace; rm -rf r; git init -q r; cd r;"
        "git config user.name a; git config user.email a@b;"
        "echo one >f; git add f; git commit -qm one; git log --format=%s; find . -name f | grep -c f; sed s/one/two/ f; id -u"
    )
    # The engine waits two seconds for the last words of a process that has ended; on a busy machine they can be lost.
    status, output = wait_until(
        lambda: (done := container.exec_run(["bash", "-c", script]))[1] and done, "any output", 20
    )
    assert (status, output.decode().split()) == (0, ["one", "1", "two", "10004"])


@pytest.mark.parametrize(("name", "user"), [("api", "10001"), ("redis", "10002"), ("egress", "10003")])
def test_debug_adds_a_shell(client: docker.DockerClient, built: Built, name: str, user: str) -> None:
    with running(
        client, built[name, "debug"].reference, entrypoint=["/bin/sh", "-c"], command=["sleep 60"]
    ) as container:
        wait_until(lambda: container.reload() or container.status == "running", "the shell")
        status, output = container.exec_run(["sh", "-c", "ls / | head -1; id -u"])
        assert (status, output.decode().split()[1]) == (0, user)
