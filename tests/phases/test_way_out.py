"""The way out of the production stack: client, API, claude-proxy, the real CLI, egress, and a real model behind it."""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.phases import paths
from tests.support import llama
from tests.support.service import wait_until
from tests.support.stack import Checkout


@pytest.fixture(scope="module")
def prod(production: Checkout) -> Iterator[Checkout]:
    production.configure(EGRESS_HOST="llama-server", EGRESS_PORT=str(llama.PORT))
    production.invoke("prod")
    yield production


def inspect(copy: Checkout, service: str) -> Any:
    return json.loads(copy.docker("inspect", copy.container(service)))[0]


def log(copy: Checkout) -> list[dict[str, Any]]:
    """What the gateway said of its requests."""
    lines = copy.docker("logs", copy.container("egress")).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_model_answers_through_the_cli(prod: Checkout) -> None:
    before = len(log(prod))
    status, body, headers = prod.ask("POST", "/v1/chat/completions", paths.chat("max/sonnet", "hi", max_tokens=16))
    assert status == 200, body
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["prompt_tokens"] > 0 < body["usage"]["completion_tokens"]
    assert headers["x-llm-call-upstream"] == "claude-proxy"
    wait_until(lambda: len(log(prod)) > before, "the gateway's line")
    passed = [line for line in log(prod)[before:] if line["status"] == 200]
    assert {(line["method"], line["path"]) for line in passed} == {("POST", "/v1/messages")}


def test_a_model_streams_through_the_cli(prod: Checkout) -> None:
    question = paths.chat("max/opus", "hi", max_tokens=16, stream=True)
    with prod.request("POST", "/v1/chat/completions", question) as response:
        assert response.status == 200
        found = paths.events(response)
    assert found[-1][1] == "[DONE]"
    pieces = [choice["delta"].get("content") for _, event in found[:-1] for choice in event["choices"]]
    assert "".join(piece for piece in pieces if piece)


def test_the_proxy_holds_no_credential_and_egress_alone_does(prod: Checkout) -> None:
    key = (prod.root / "secrets/egress/anthropic_api_key").read_text().strip()
    read = "import pathlib;print(sorted(p.name for p in pathlib.Path('/run/secrets').iterdir()))"
    names = prod.docker("exec", prod.container("claude-proxy"), "python3", "-c", read).strip()
    assert names == "['claude_proxy_keys']"
    mounted = {
        service: [mount["Source"] for mount in inspect(prod, service)["Mounts"]]
        for service in ("llm-call-api", "claude-proxy", "egress", "redis")
    }
    holders = [service for service, places in mounted.items() if str(prod.root / "secrets/egress") in places]
    assert holders == ["egress"]
    for service in mounted:
        told = json.dumps(inspect(prod, service)) + prod.docker("logs", prod.container(service))
        assert key not in told, service


def test_a_new_key_counts_without_a_restart(prod: Checkout) -> None:
    path = prod.root / "secrets/egress/anthropic_api_key"
    earlier, started = path.read_text(), prod.started("egress")
    ask = "import urllib.request as u;print(u.urlopen('http://egress:8080/health').read().decode())"

    def credential() -> bool:
        told = prod.docker("exec", prod.container("claude-proxy"), "python3", "-c", ask)
        return bool(json.loads(told)["credential"])

    try:
        assert credential()
        path.write_text("")
        assert not credential()
        path.write_text(f"sk-ant-oat01-{secrets.token_hex(16)}\n")
        assert credential()
        path.unlink()
        assert not credential()
        path.write_text(earlier)  # a new file, as most editors save
        path.chmod(0o444)
        assert credential()
    finally:
        path.write_text(earlier)
    assert prod.started("egress") == started


def test_the_agents_network_leads_nowhere_but_to_egress(prod: Checkout) -> None:
    assert paths.reach(prod, "claude-proxy", "egress", 8080) == "connected"
    for host, port in (("llama-server", llama.PORT), ("redis", 6379), ("messages-api", 9100)):
        assert "gaierror" in paths.reach(prod, "claude-proxy", host, port), host
    (address,) = [
        found["IPAddress"]
        for name, found in inspect(prod, "llama-server")["NetworkSettings"]["Networks"].items()
        if name.endswith("outbound")
    ]
    assert paths.reach(prod, "claude-proxy", address, llama.PORT) != "connected"


def test_the_runners_network_leads_nowhere_but_to_the_gate(prod: Checkout) -> None:
    runner = "claude-runner-1"
    assert paths.reach(prod, runner, "claude-proxy", 3011) == "connected"
    for host, port in (("egress", 8080), ("llm-call-api", 8001), ("redis", 6379), ("messages-api", 9100)):
        assert "gaierror" in paths.reach(prod, runner, host, port), host
    for service, port in (("egress", 8080), ("llm-call-api", 8001), ("redis", 6379), ("claude-proxy", 3010)):
        for name, found in inspect(prod, service)["NetworkSettings"]["Networks"].items():
            if not name.endswith("_runners"):
                assert paths.reach(prod, runner, found["IPAddress"], port) != "connected", (service, name)


@pytest.mark.parametrize(
    ("network", "service", "joined"),
    [
        ("agent", "claude-proxy", {"agent", "runners"}),
        ("runners", "claude-runner-1", {"runners"}),
        ("data", "redis", {"data"}),
    ],
)
def test_the_host_is_not_on_the_inner_networks(prod: Checkout, network: str, service: str, joined: set[str]) -> None:
    """Neither side has the other's address: no listener of the host can be reached from inside."""
    (name,) = [each for each in inspect(prod, service)["NetworkSettings"]["Networks"] if each.endswith(f"_{network}")]
    (found,) = json.loads(prod.docker("network", "inspect", name))
    (pool,) = found["IPAM"]["Config"]
    assert (found["Internal"], found["EnableIPv6"], pool.get("Gateway")) == (True, False, None)
    assert {each.rpartition("_")[2] for each in inspect(prod, service)["NetworkSettings"]["Networks"]} == joined
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        try:
            probe.connect((inspect(prod, service)["NetworkSettings"]["Networks"][name]["IPAddress"], 9))
        except OSError:
            return  # no route at all
        assert ipaddress.ip_address(probe.getsockname()[0]) not in ipaddress.ip_network(pool["Subnet"])


def test_egress_runs_hardened_and_publishes_nothing(prod: Checkout) -> None:
    found = inspect(prod, "egress")
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Init"]) == (True, ["ALL"], True)
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert min(host["PidsLimit"], host["Memory"], host["NanoCpus"]) > 0
    assert found["Config"]["User"] == "10003:10003"
    assert host["PortBindings"] in ({}, None)
