"""What must not be in production is found, each thing by itself; what is right is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from shipyard import policy
from shipyard import policy_rules as rules

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
            "ipc": "private",
            "mem_limit": "536870912",
            "memswap_limit": "536870912",
            "ulimits": {"core": 0, "nofile": {"soft": 16384, "hard": 16384}},
            "tmpfs": ["/tmp:rw,noexec,nosuid,nodev,size=64m"],
            "networks": {"llm-call-network": None},
            "cpus": 2,
            "pids_limit": 256,
            "restart": "always",
            "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
        }
    },
    "networks": {
        name: {"internal": True, "driver_opts": {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}}
        for name in ("agent", "data", "runners")
    },
}


def places(config: dict[str, Any], root: Path | None = None) -> list[str]:
    return [fault.place.removeprefix("services.balancer.") for fault in policy.faults(config, root)]


def service(name: str, **more: Any) -> dict[str, Any]:
    """The good configuration with one more service, on the first network that it may be on."""
    network = rules.NETWORKS.get(name, ("data",))[-1] if name in ("claude-proxy", "ollama", *rules.RUNNERS) else "data"
    network = "agent" if name == "egress" else network
    switch = dict(rules.SWITCHES.get(name, {}))
    base = {**GOOD["services"]["balancer"], "ports": [], "networks": {network: None}, "environment": switch}
    base |= RUNNER if name in rules.RUNNERS else {}
    others = {"claude-runner-9": {**base, **RUNNER}} if name == "claude-proxy" else {}
    return {**copy.deepcopy(GOOD), "services": {name: {**base, **more}, **others}}


RUNNER: dict[str, Any] = {
    "image": "llm-call-claude-proxy:1.0.0",
    "environment": {},
    "networks": {"runners": None},
    "tmpfs": ["/run/work:rw,exec,nosuid,nodev,size=512m,nr_inodes=131072,mode=1777"],
    "user": "20011:10101",
    "volumes": [{"type": "volume", "source": "runners", "target": "/run/runners", "read_only": True}],
}


def bind(source: str, target: str = "/x") -> dict[str, Any]:
    return {"type": "bind", "source": source, "target": target, "read_only": True}


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
        ("network_mode", "service:redis", "network_mode"),
        ("network_mode", "none", "network_mode"),
        ("pid", "service:redis", "pid"),
        ("cap_add", ["NET_RAW"], "cap_add"),
        ("devices", [{"source": "/dev/kmsg"}], "devices"),
        ("device_cgroup_rules", ["c 1:3 mr"], "device_cgroup_rules"),
        ("volumes_from", ["redis"], "volumes_from"),
        ("sysctls", {"net.ipv4.ip_forward": "1"}, "sysctls"),
        ("extra_hosts", ["host.docker.internal=host-gateway"], "extra_hosts"),
        ("userns_mode", "host", "userns_mode"),
        ("cgroup", "private", "cgroup"),
        ("cgroup_parent", "/", "cgroup_parent"),
        ("runtime", "other", "runtime"),
        ("post_start", [{"command": ["true"]}], "post_start"),
        ("pre_stop", [{"command": ["true"]}], "pre_stop"),
        ("user", "0", "user"),
        ("uts", "host", "uts"),
        ("env_file", ["x"], "env_file"),
        ("label_file", ["x"], "label_file"),
        ("credential_spec", {"file": "x"}, "credential_spec"),
        ("gpus", [{"count": -1}], "gpus"),
        ("use_api_socket", True, "use_api_socket"),
        (
            "deploy",
            {"resources": {"reservations": {"devices": [{"count": 1}]}}},
            "deploy.resources.reservations.devices",
        ),
        ("ipc", "host", "ipc"),
        ("ipc", "shareable", "ipc"),
        ("ipc", None, "ipc"),
        ("security_opt", ["no-new-privileges:false"], "security_opt"),
        ("security_opt", ["no-new-privileges:true", "seccomp:unconfined"], "security_opt"),
        ("mem_limit", "0", "mem_limit"),
        ("memswap_limit", "-1", "memswap_limit"),
        ("cpus", "inf", "cpus"),
        ("cpus", -1, "cpus"),
        ("pids_limit", -1, "pids_limit"),
        ("ulimits", {"core": -1, "nofile": 1024}, "ulimits.core"),
        ("ulimits", {"core": {}, "nofile": {"soft": 1024, "hard": -1}}, "ulimits.nofile"),
        ("logging", {"driver": "none", "options": {"max-size": "10m", "max-file": "3"}}, "logging"),
        ("logging", {"driver": "json-file", "options": {"max-size": "10m"}}, "logging"),
        ("logging", {"driver": "json-file", "options": {"max-file": "3"}}, "logging"),
        ("logging", {"driver": "json-file", "options": {"max-size": "-1", "max-file": "3"}}, "logging"),
        ("ports", [{"target": 8001, "published": "1"}, {"target": 8001, "published": "2"}], "ports"),
        ("ports", [{"target": 9101, "published": "8001"}], "ports"),
        ("volumes", [bind("/run/podman/podman.sock")], "volumes"),
        ("volumes", [bind("/elsewhere/containerd.sock")], "volumes"),
        ("volumes", [bind("/run")], "volumes"),
        ("volumes", [bind("/var/run")], "volumes"),
        ("volumes", [bind("/var/run/containerd")], "volumes"),
        ("volumes", [bind("/x/../run")], "volumes"),
        ("volumes", [bind("/")], "volumes"),
        ("networks", {"outbound": None}, "networks"),
        ("networks", {"default": None}, "networks"),
        ("environment", {"harmless": "AIza" + "x" * 16}, "environment.harmless"),
        ("environment", {"URL": "http://x/?a%3Dsk-" + "x" * 16}, "environment.URL"),
        ("command", ["run", "--key=sk-ant-" + "x" * 16], "command[1]"),
        ("entrypoint", ["run", "pplx-" + "x" * 16], "entrypoint[1]"),
        ("labels", {"note": "llmc-" + "x" * 16}, "labels.note"),
        ("healthcheck", {"test": ["CMD", "Bearer sk-" + "x" * 16]}, "healthcheck.test[1]"),
    ],
)
def test_each_thing_that_must_not_be(key: str, value: Any, place: str) -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["balancer"][key] = value
    assert places(config) == [place]


def test_a_published_internal_port_and_an_open_network() -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["redis"] = {**GOOD["services"]["balancer"], "networks": {"data": None}}
    config["networks"]["data"] = {}
    assert places(config) == ["services.redis.ports", "networks.data.internal", "networks.data.driver_opts"]


def test_a_page_for_a_browser_is_published_on_this_machine_alone() -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["prometheus"] = {
        **GOOD["services"]["balancer"],
        "ports": [{"host_ip": "127.0.0.1"}, {"host_ip": "::1"}],
    }
    assert places(config) == []
    config["services"]["prometheus"]["ports"] = [{"published": "9090"}]
    assert places(config) == ["services.prometheus.ports"]
    config["services"]["prometheus"]["ports"] = [{"host_ip": "127.0.0.1"}, {"host_ip": "0.0.0.0"}]
    assert places(config) == ["services.prometheus.ports"]


@pytest.mark.parametrize("word", ["task-" + "x" * 20, "sk-short", "AIza", "/run/secrets/openai_api_key"])
def test_what_is_no_key_is_left_alone(word: str) -> None:
    config = copy.deepcopy(GOOD)
    config["services"]["balancer"]["command"] = [word]
    assert places(config) == []


def test_a_key_at_the_top_is_found_and_not_told() -> None:
    config = {**copy.deepcopy(GOOD), "configs": {"x": {"content": "sk-" + "x" * 16}}}
    assert places(config) == ["configs.x.content"]
    assert "xxxx" not in str(policy.faults(config)[0])


def test_a_service_that_production_does_not_have() -> None:
    found = policy.faults(service("helper"))
    assert [(fault.place, fault.problem) for fault in found] == [("services.helper", "not a service of production")]


@pytest.mark.parametrize("value", ["off", "", None])
def test_the_sandbox_is_required(value: str | None) -> None:
    assert places(service("claude-proxy")) == []
    config = service("claude-proxy", environment={**rules.SWITCHES["claude-proxy"], "CLAUDE_PROXY_SANDBOX": value})
    assert places(config) == ["services.claude-proxy.environment.CLAUDE_PROXY_SANDBOX"]


GPU = {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu", "compute", "utility"]}
BY_CDI = {**GPU, "driver": "cdi", "device_ids": ["nvidia.com/gpu=0"]}


@pytest.mark.parametrize(
    ("name", "image", "device", "refused"),
    [
        ("ollama", "ollama/ollama:0.12.6", GPU, False),
        ("llm-call-api", "llm-call-api:1.0.0-cuda", GPU, False),
        ("claude-runner-1", "llm-call-claude-proxy:1.0.0-cuda", GPU, False),
        ("claude-runner-1", "registry:5000/llm-call-claude-proxy:1.0.0-cuda@sha256:" + "0" * 64, GPU, False),
        ("ollama", "ollama/ollama:0.12.6", BY_CDI, False),
        ("ollama", "ollama/ollama:0.12.6", {**BY_CDI, "device_ids": ["nvidia.com/gpu=all"]}, False),
        ("claude-runner-1", "llm-call-claude-proxy:1.0.0-cuda", BY_CDI, False),
        ("llm-call-api", "llm-call-api:1.0.0-cuda", {**GPU, "device_ids": ["GPU-f15ae561-21b1-6003"]}, False),
        ("llm-call-api", "llm-call-api:1.0.0", GPU, True),
        ("llm-call-api", "llm-call-api:1.0.0", BY_CDI, True),
        ("redis", "llm-call-redis:1.0.0-cuda", BY_CDI, True),
        ("llm-call-api", "llm-call-api:1.0.0-local", GPU, True),
        ("claude-runner-1", "llm-call-claude-proxy:1.0.0", GPU, True),
        ("redis", "llm-call-redis:1.0.0-cuda", GPU, True),
        ("ollama", "ollama/ollama:0.12.6", {"count": 1}, True),
        ("llm-call-api", "llm-call-api:1.0.0-cuda", {**BY_CDI, "device_ids": ["vendor.com/disk=0"]}, True),
        ("ollama", "ollama/ollama:0.12.6", {**BY_CDI, "device_ids": ["nvidia.com/gpu=0", "vendor.com/disk=0"]}, True),
        ("ollama", "ollama/ollama:0.12.6", {**BY_CDI, "device_ids": ["nvidia.com/gpu-like=0"]}, True),
        ("ollama", "ollama/ollama:0.12.6", {**BY_CDI, "device_ids": ["0"]}, True),
        ("ollama", "ollama/ollama:0.12.6", {**BY_CDI, "device_ids": []}, True),
        ("ollama", "ollama/ollama:0.12.6", {**GPU, "device_ids": ["nvidia.com/gpu=0"]}, True),
        ("ollama", "ollama/ollama:0.12.6", {"device_ids": ["0"], "capabilities": ["gpu"]}, True),
        ("claude-runner-1", "llm-call-claude-proxy:1.0.0-cuda", {**GPU, "driver": "other"}, True),
        ("claude-runner-1", "llm-call-claude-proxy:1.0.0-cuda", {**GPU, "capabilities": ["tpu"]}, True),
    ],
)
def test_a_device_is_a_gpu_and_for_those_whose_image_can_use_it(
    name: str, image: str, device: dict[str, Any], *, refused: bool
) -> None:
    reserved = {"resources": {"reservations": {"devices": [device]}}}
    place = f"services.{name}.deploy.resources.reservations.devices"
    assert places(service(name, image=image, deploy=reserved)) == ([place] if refused else [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pids_limit", None),
        ("memswap_limit", -1),
        ("networks", {"outbound": None}),
        ("privileged", True),
        ("devices", [{"source": "/dev/nvidia0", "target": "/dev/nvidia0"}]),
        ("runtime", "nvidia"),
        ("user", "0:10101"),
        ("read_only", None),
        ("environment", {"ANTHROPIC_API_KEY": ""}),
    ],
)
def test_a_gpu_buys_a_runner_nothing_else(key: str, value: Any) -> None:
    more = {"image": "llm-call-claude-proxy:1.0.0-cuda", "deploy": {"resources": {"reservations": {"devices": [GPU]}}}}
    assert places(service("claude-runner-1", **more)) == []
    assert len(set(places(service("claude-runner-1", **more, **{key: value})))) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user", ""),
        ("user", "10004:10101"),
        ("user", "20011:0"),
        ("environment", {"CLAUDE_PROXY_KEYS_FILE": "/run/secrets/keys"}),
        ("secrets", [{"source": "key"}]),
        ("ports", [{"target": 3011}]),
        ("networks", {"data": None}),
        ("volumes", []),
        ("volumes", [{**RUNNER["volumes"][0], "read_only": False}]),
        ("volumes", [{**RUNNER["volumes"][0], "source": "claude-workspace"}]),
        ("volumes", [*RUNNER["volumes"], {"type": "volume", "source": "claude-workspace", "target": "/workspace"}]),
        ("tmpfs", []),
        ("tmpfs", ["/run/work:rw,exec,nosuid,nodev,nr_inodes=131072"]),
        ("tmpfs", ["/run/work:rw,exec,nosuid,nodev,size=512m"]),
        ("tmpfs", [*RUNNER["tmpfs"], "/elsewhere:rw,exec,size=1m"]),
        ("pids_limit", 4096),
        ("memswap_limit", "1073741824"),
        ("cap_add", ["SETUID"]),
    ],
)
def test_a_runner_has_no_more_than_it_needs(key: str, value: Any) -> None:
    assert places(service("claude-runner-1")) == []
    assert places(service("claude-runner-1", **{key: value})) != []


def test_the_claude_proxy_needs_runners_each_with_a_uid_of_its_own() -> None:
    config = service("claude-proxy")
    config["services"]["claude-runner-2"] = config["services"]["claude-runner-9"]
    assert places(config) == ["services.claude-runner-2.user", "services.claude-runner-9.user"]
    del config["services"]["claude-runner-2"], config["services"]["claude-runner-9"]
    assert places(config) == ["services"]


def test_the_runners_socket_is_for_nobody_else() -> None:
    assert places(service("redis", volumes=RUNNER["volumes"])) == ["services.redis.volumes"]


@pytest.mark.parametrize(
    ("networks", "found"),
    [
        ({"mine": {"name": "p_data"}}, ["networks.data.name", "networks.mine.name", "networks"]),
        ({"mine": {"name": "host", "external": True}}, ["networks.mine.name", "networks.mine.external", "networks"]),
    ],
)
def test_networks_count_by_their_real_name(networks: dict[str, Any], found: list[str]) -> None:
    config = copy.deepcopy(GOOD)
    config["networks"]["data"]["name"] = "p_data"
    config["networks"] |= networks
    config["services"]["balancer"]["networks"] = {"mine": None}
    assert places(config) == found


def test_a_second_key_for_a_closed_network_lets_nobody_in() -> None:
    config = service("granger", networks={"granger-network": None})
    config["networks"]["granger-network"] = {"name": "data", "external": True}
    assert [place for place in places(config) if place.startswith("services")] == ["services.granger.networks"]


@pytest.mark.parametrize(
    ("volume", "found"),
    [
        (None, []),
        ({"name": "x", "driver": "local"}, []),
        ({"driver_opts": {"type": "none", "o": "bind", "device": "/"}}, ["volumes.x"]),
        ({"driver": "nfs"}, ["volumes.x"]),
    ],
)
def test_volumes_are_the_engines_own(volume: Any, found: list[str]) -> None:
    assert places({**copy.deepcopy(GOOD), "volumes": {"x": volume}}) == found


@pytest.mark.parametrize(
    ("name", "source", "target", "refused"),
    [
        ("redis", "config", "/x", False),
        ("redis", "secrets/redis", "/x", False),
        ("llm-call-api", "secrets/api", "/x", False),
        ("claude-proxy", "secrets/claude-proxy", "/x", False),
        ("egress", "secrets/egress", "/x", False),
        ("redis-exporter", "secrets/redis-exporter", "/x", False),
        ("redis", "/dev/null", "/x", False),
        ("egress", "../bundle.pem", "/run/egress_ca", False),
        ("llm-call-api", "models", "/models", False),
        ("llm-call-api", "../folder", "/models", False),
        ("ollama", "../folder", "/models", False),
        ("ollama", "../folder", "/x", True),
        ("claude-proxy", "../folder", "/models", True),
        ("llm-call-api", "../bundle.pem", "/models", True),
        ("ollama", "secrets/api", "/models", True),
        ("ollama", "..", "/models", True),
        ("ollama", "/run", "/models", True),
        ("egress", "../bundle.pem", "/x", True),
        ("egress", "..", "/run/egress_ca", True),
        ("egress", "../folder", "/run/egress_ca", True),
        ("redis", "../bundle.pem", "/run/egress_ca", True),
        ("redis", "/etc", "/x", True),
        ("redis", "config/../../bundle.pem", "/x", True),
        ("redis", "link", "/x", True),
        ("redis", "secrets/api", "/x", True),
        ("redis", "secrets/redis-exporter", "/x", True),
        ("redis", "secrets/client_key", "/x", True),
        ("prometheus", "secrets/redis", "/x", True),
        ("redis", "secrets", "/x", True),
        ("redis", ".", "/x", True),
        ("redis", "../checkout-other", "/x", True),
    ],
)
def test_binds_are_a_services_own_part_of_the_checkout(
    tmp_path: Path, name: str, source: str, target: str, *, refused: bool
) -> None:
    root = tmp_path / "checkout"
    for folder in ("checkout", "folder"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bundle.pem").touch()
    (root / "link").symlink_to("../folder")
    config = service(name, volumes=[bind(str(root / source), target)])
    assert places(config, root) == ([f"services.{name}.volumes"] if refused else [])


def test_the_difference_names_each_place() -> None:
    old = {"a": {"b": [1, 2], "c": "x"}, "e": {}}
    new = {"a": {"b": [1, 3, 4]}, "e": {}, "f": None}
    assert policy.difference(old, new) == ["- a.b[1]: 2", "+ a.b[1]: 3", "+ a.b[2]: 4", "- a.c: x", "+ f: None"]
    assert policy.difference(old, old) == []
