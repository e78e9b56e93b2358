"""What must not be in production is found, each thing by itself; what is right is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from shipyard import policy

GOOD: dict[str, Any] = {
    "services": {
        "balancer": {
            "image": "llm-call-balancer:1.0.0",
            "ports": [{"published": "8001", "target": 8001}],
            "environment": {"OPENAI_API_KEY_FILE": "/run/secrets/openai_api_key", "CLAUDE_PROXY_CREDENTIAL": "egress"},
            "volumes": [{"type": "bind", "source": "/x/config", "target": "/app/config", "read_only": True}],
            "read_only": True,
            "init": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "mem_limit": "536870912",
            "memswap_limit": "536870912",
            "ulimits": {"core": 0, "nofile": {"soft": 16384, "hard": 16384}},
            "tmpfs": ["/tmp:rw,noexec,nosuid,nodev,size=64m"],
            "networks": {"llm-call-network": None},
            "cpus": 2,
            "pids_limit": 256,
            "restart": "always",
            "logging": {"driver": "json-file", "options": {"max-size": "10m"}},
        }
    },
    "networks": {
        name: {"internal": True, "driver_opts": {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}}
        for name in ("agent", "data")
    },
}


def places(config: dict[str, Any]) -> list[str]:
    return [fault.place.removeprefix("services.balancer.") for fault in policy.faults(config)]


def test_a_hardened_configuration_is_left_alone() -> None:
    assert policy.faults(GOOD) == []


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("image", "llm-call-api:latest", "image"),
        ("image", "registry:5000/llm-call-api", "image"),
        ("image", "llm-call-api:1.0.0-debug", "image"),
        ("environment", {"OPENAI_API_KEY": "sk-1"}, "environment.OPENAI_API_KEY"),
        ("environment", {"LOG_LEVEL": "debug"}, "environment.LOG_LEVEL"),
        ("environment", {"DEBUGGER_PORT": "5678"}, "environment.DEBUGGER_PORT"),
        ("volumes", [{"type": "bind", "source": "/run/docker.sock", "target": "/s", "read_only": True}], "volumes"),
        ("volumes", [{"type": "bind", "source": "/x", "target": "/x"}], "volumes"),
        ("volumes", [{"type": "bind", "source": "/x/src", "target": "/app/src", "read_only": True}], "volumes"),
        ("command", ["python3", "--reload"], "command"),
        ("read_only", None, "read_only"),
        ("init", None, "init"),
        ("cap_drop", [], "cap_drop"),
        ("security_opt", [], "security_opt"),
        ("mem_limit", None, "mem_limit"),
        ("memswap_limit", None, "memswap_limit"),
        ("cpus", 0, "cpus"),
        ("ulimits", {"nofile": 1024}, "ulimits.core"),
        ("ulimits", {"core": 0}, "ulimits.nofile"),
        ("tmpfs", ["/tmp:rw,noexec"], "tmpfs"),
        ("tmpfs", ["/tmp:rw,size=64m"], "tmpfs"),
        ("networks", {"data": None}, "networks"),
        ("networks", {"agent": None}, "networks"),
        ("networks", {"granger-network": None}, "networks"),
        ("pids_limit", None, "pids_limit"),
        ("restart", "no", "restart"),
        ("logging", {}, "logging"),
        ("privileged", True, "privileged"),
        ("network_mode", "host", "network_mode"),
        ("pid", "host", "pid"),
    ],
)
def test_each_thing_that_must_not_be(key: str, value: Any, place: str) -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["balancer"][key] = value
    assert places(config) == [place]


def test_a_published_internal_port_and_an_open_network() -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["redis"] = config["services"]["balancer"]
    config["networks"]["data"] = {}
    assert places(config) == ["services.redis.ports", "networks.data.internal", "networks.data.driver_opts"]


def test_a_page_for_a_browser_is_published_on_this_machine_alone() -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["prometheus"] = {**GOOD["services"]["balancer"], "ports": [{"host_ip": "127.0.0.1"}]}
    assert places(config) == []
    config["services"]["prometheus"]["ports"] = [{"published": "9090"}]
    assert places(config) == ["services.prometheus.ports"]


def test_the_difference_names_each_place() -> None:
    old = {"a": {"b": [1, 2], "c": "x"}, "e": {}}
    new = {"a": {"b": [1, 3, 4]}, "e": {}, "f": None}
    assert policy.difference(old, new) == ["- a.b[1]: 2", "+ a.b[1]: 3", "+ a.b[2]: 4", "- a.c: x", "+ f: None"]
    assert policy.difference(old, old) == []
