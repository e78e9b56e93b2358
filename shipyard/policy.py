"""What must not be in production: pure rules over Compose's effective configuration, as ``docker compose config`` gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from shipyard.models import Fault

#: The only service whose port a production stack publishes: the entrance of the API.
PUBLISHED = "balancer"
#: What a person looks at in a browser may be published besides, on this machine's own address.
LOCAL = "prometheus"
#: Networks that have neither a way out nor one to the host, and who may be on them.
CLOSED = {
    "agent": ("llm-call-api", "claude-proxy", "egress"),
    "data": ("llm-call-api", "redis", "redis-exporter", "prometheus"),
}
#: The external network of other projects, and the one service that may be on it.
SHARED, JOINS = "granger-network", "granger"
#: A variable of such a name holds a secret, unless it names the file of one.
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")
#: Values that such a variable may have: none, a file's path, and the word that says where the credential is.
HARMLESS = re.compile(r"(/.*)?|egress")
_LIMITS = {
    "mem_limit": "memory has no limit",
    "memswap_limit": "swap has no limit",
    "cpus": "processors have no limit",
    "pids_limit": "processes have no limit",
}
_HARDENED: Mapping[str, tuple[Any, str]] = {
    "read_only": (True, "the root file system is writable"),
    "init": (True, "nothing reaps orphans"),
    "cap_drop": (["ALL"], "capabilities are not dropped"),
}
_HOST = ("network_mode", "pid", "userns_mode", "uts")


def faults(config: Mapping[str, Any]) -> list[Fault]:
    """Everything that must not be in production, by service and key."""
    found = [
        Fault(f"services.{name}.{key}", problem, hint)
        for name, service in sorted(config.get("services", {}).items())
        for key, problem, hint in _service(name, service)
    ]
    for name in CLOSED:
        network = config.get("networks", {}).get(name, {})
        if not network.get("internal"):
            found.append(Fault(f"networks.{name}.internal", "the network has a way out", "internal: true"))
        if network.get("driver_opts", {}).get("com.docker.network.bridge.gateway_mode_ipv4") != "isolated":
            hint = "driver_opts: com.docker.network.bridge.gateway_mode_ipv4: isolated"
            found.append(Fault(f"networks.{name}.driver_opts", "the host is reachable at the gateway address", hint))
    return found + list(_membership(config.get("services", {})))


def flat(value: Any, place: str = "") -> dict[str, str]:
    """A configuration as lines: ``services.redis.ports[0].published`` to its value."""
    if isinstance(value, Mapping) and value:
        parts = ((f"{place}.{key}" if place else str(key), each) for key, each in value.items())
    elif isinstance(value, list) and value:
        parts = ((f"{place}[{number}]", each) for number, each in enumerate(value))
    else:
        return {place: str(value)}
    return {key: text for name, each in parts for key, text in flat(each, name).items()}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changes from one configuration to another: ``-`` and ``+`` lines by place."""
    before, after = flat(old), flat(new)
    lines = []
    for place in sorted(before.keys() | after.keys()):
        if before.get(place) != after.get(place):
            lines += [f"- {place}: {before[place]}"] if place in before else []
            lines += [f"+ {place}: {after[place]}"] if place in after else []
    return lines


def _service(name: str, service: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if any(_open(name, port) for port in service.get("ports") or ()):
        yield "ports", "an internal port is published", f"leave ports to {PUBLISHED}"
    for key, (wanted, problem) in _HARDENED.items():
        if service.get(key) != wanted:
            yield key, problem, f"{key}: {str(wanted).lower() if isinstance(wanted, bool) else wanted}"
    for key, problem in _LIMITS.items():
        if not service.get(key):
            yield key, problem, "give it one"
    if not any(str(each).startswith("no-new-privileges") for each in service.get("security_opt", ())):
        yield "security_opt", "a setuid program could gain privileges", "no-new-privileges:true"
    if service.get("privileged"):
        yield "privileged", "the container is the host", "leave it out"
    for key in _HOST:
        if str(service.get(key, "")) == "host":
            yield key, "shares the host's namespace", "leave it out"
    if not (service.get("logging", {}).get("options") or {}).get("max-size"):
        yield "logging", "logs grow without bound", "options: max-size, max-file"
    if service.get("restart", "no") == "no":
        yield "restart", "it stays down after a crash", "restart: always"
    for limit in ("core", "nofile"):
        if limit not in (service.get("ulimits") or {}):
            yield f"ulimits.{limit}", "has no limit", "core: 0, nofile: {soft: 16384, hard: 16384}"
    for place in service.get("tmpfs") or ():
        if "size=" not in str(place) or "noexec" not in str(place):
            yield "tmpfs", f"{place} has no size or can be executed from", "/tmp:rw,noexec,nosuid,nodev,size=64m"
    yield from _image(str(service.get("image", "")))
    yield from _environment(service.get("environment") or {})
    yield from _volumes(service.get("volumes") or ())
    command = [str(word) for word in service.get("command") or ()]
    if "--reload" in command:
        yield "command", "hot reload is on", "leave --reload out"


def _open(name: str, port: Mapping[str, Any]) -> bool:
    """Whether a published port is one that production must not have."""
    return name != PUBLISHED and not (name == LOCAL and port.get("host_ip") in ("127.0.0.1", "::1"))


def _membership(services: Mapping[str, Any]) -> Iterator[Fault]:
    """Services on networks where they must not be."""
    for network, members in {**CLOSED, SHARED: (JOINS,)}.items():
        for name, service in sorted(services.items()):
            if network in (service.get("networks") or {}) and name not in members:
                hint = f"{', '.join(members)} may be"
                yield Fault(f"services.{name}.networks", f"must not be on {network}", hint)


def _image(image: str) -> Iterator[tuple[str, str, str]]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield "image", f'"{image}" may be another one tomorrow', "name a version or a digest"
    if tag.endswith(("-dev", "-debug")):
        yield "image", f'"{image}" is no production image', "use the one without a suffix"


def _environment(environment: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, value in sorted(environment.items()):
        text = "" if value is None else str(value)
        if SECRET.search(name) and not HARMLESS.fullmatch(text):
            yield f"environment.{name}", "a secret is in the environment", f"mount a file and set {name}_FILE"
    if str(environment.get("LOG_LEVEL") or "").lower() == "debug":
        yield "environment.LOG_LEVEL", "debug logs are on", "leave it out"
    if environment.get("DEBUGGER_PORT"):
        yield "environment.DEBUGGER_PORT", "a debugger may attach", "leave it out"


def _volumes(volumes: Any) -> Iterator[tuple[str, str, str]]:
    for volume in volumes:
        source, target = str(volume.get("source", "")), str(volume.get("target", ""))
        if source.endswith("docker.sock"):
            yield "volumes", "the engine's socket is the host's root", "leave it out"
        elif volume.get("type") == "bind" and not volume.get("read_only"):
            yield "volumes", f"{target} is writable on the host", "read_only: true, or a named volume"
        elif target.startswith("/app/src"):
            yield "volumes", "the source is mounted over the image's", "leave it out"
