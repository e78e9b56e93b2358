"""What must not be in production: rules over Compose's effective configuration, as ``docker compose config`` gives it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from shipyard import policy_mounts, policy_runners
from shipyard import policy_rules as rules
from shipyard.models import Fault

#: A variable of such a name holds a secret, unless it names the file of one.
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")
#: Values that such a variable may have: none, a file's path, and the word that says where the credential is.
HARMLESS = re.compile(r"(/.*)?|egress")


def faults(config: Mapping[str, Any], root: Path | None = None) -> list[Fault]:
    """Everything that must not be in production, by service and key.

    ``root`` is the checkout: what is mounted has to lie in it, which is not asked without it.
    """
    services = config.get("services", {})
    found = [
        Fault(f"services.{name}{'.' * bool(key)}{key}", problem, hint)
        for name, service in sorted(services.items())
        for key, problem, hint in _service(name, service, root)
    ]
    found += policy_runners.together(services)
    found += [*_networks(config.get("networks") or {}), *_membership(services, config.get("networks") or {})]
    for name, volume in sorted((config.get("volumes") or {}).items()):
        if (volume or {}).get("driver_opts") or (volume or {}).get("driver", "local") != "local":
            found.append(Fault(f"volumes.{name}", "may be any folder of the host or another machine", "leave it empty"))
    known = {fault.place for fault in found}
    for place, text in flat(config).items():
        if rules.KEY.search(text) and place not in known:
            found.append(
                Fault(place, "looks like a key of a provider", "mount a file below secrets/ and replace the key")
            )
    return found


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


def _service(name: str, service: Mapping[str, Any], root: Path | None) -> Iterator[tuple[str, str, str]]:
    if name not in rules.NETWORKS:
        yield "", "not a service of production", f"{', '.join(rules.NETWORKS)} are"
    yield from _ports(name, service.get("ports") or ())
    for key, (wanted, problem) in rules.EXACT.items():
        if service.get(key) != wanted:
            yield key, problem, f"{key}: {str(wanted).lower() if isinstance(wanted, bool) else wanted}"
    runner = name in rules.RUNNERS
    for key, problem in rules.FORBIDDEN.items():
        if service.get(key) and not (runner and key == "user"):
            yield key, problem, "leave it out"
    if runner:
        yield from policy_runners.faults(service)
    yield from _devices(name, service)
    yield from _bounds(service)
    if service.get("restart", "no") == "no":
        yield "restart", "it stays down after a crash", "restart: always"
    for place in service.get("tmpfs") or ():
        executable = "noexec" not in str(place) and not (runner and policy_runners.is_work(str(place)))
        if "size=" not in str(place) or executable:
            yield "tmpfs", f"{place} has no size or can be executed from", "/tmp:rw,noexec,nosuid,nodev,size=64m"
    yield from _image(str(service.get("image", "")))
    yield from _environment(name, service.get("environment") or {})
    for volume in service.get("volumes") or ():
        yield from policy_mounts.faults(name, volume, root)
        if volume.get("source") == policy_runners.VOLUME and not runner and name != "claude-proxy":
            yield "volumes", "the socket of claude-proxy is for its runners", "leave it out"
    command = [str(word) for word in service.get("command") or ()]
    if "--reload" in command:
        yield "command", "hot reload is on", "leave --reload out"


def _ports(name: str, ports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    ports = list(ports)
    if name == rules.PUBLISHED:
        if len(ports) > 1 or any(str(port.get("target")) != str(rules.ENTRANCE) for port in ports):
            yield "ports", "more than the entrance is published", f"one port, to {rules.ENTRANCE}"
    elif name == rules.LOCAL:
        if any(port.get("host_ip") not in rules.LOOPBACK for port in ports):
            yield "ports", "a page for this machine is published to others", f'"{rules.LOOPBACK[0]}:PORT:PORT"'
    elif ports:
        yield "ports", "an internal port is published", f"leave ports to {rules.PUBLISHED}"


def _devices(name: str, service: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What ``deploy`` asks for: GPUs, and only for those whose image can use one."""
    found: Any = service
    for key in ("deploy", "resources", "reservations", "devices"):
        found = (found or {}).get(key)
    place = "deploy.resources.reservations.devices"
    end = rules.ACCELERATED.get(name)
    if found and (end is None or not str(service.get("image", "")).partition("@")[0].endswith(end)):
        may = ", ".join(f"{each} ({end})" if end else each for each, end in sorted(rules.ACCELERATED.items()))
        yield place, "reaches devices of the host", f"only these may, with such an image: {may}"
    elif not all(map(_is_gpu, found or ())):
        hint = f'driver: nvidia, device_ids: ["0"], or driver: cdi, device_ids: ["{rules.CDI_KIND}=0"]'
        yield place, "asks for another device than a GPU", f"capabilities: [{rules.CAPABILITY}], {hint}"


def _is_gpu(device: Mapping[str, Any]) -> bool:
    """Whether a device is a GPU by its name, as compose/gpu-devices.yaml asks for one."""
    pattern, names = rules.DEVICES.get(str(device.get("driver"))), device.get("device_ids") or ()
    named = pattern is not None and bool(names) and all(pattern.fullmatch(str(each)) for each in names)
    return named and rules.CAPABILITY in (device.get("capabilities") or ())


def _bounds(service: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Limits that are missing or stand for none."""
    for key, problem in rules.LIMITS.items():
        if not 0 < _number(service.get(key)) < inf:
            yield key, problem, "give it one above zero"
    ulimits = service.get("ulimits") or {}
    for limit in ("core", "nofile"):
        # Compose writes a limit of 0 as {}.
        if limit not in ulimits or any(_number(each or 0) < 0 for each in flat(ulimits[limit] or 0).values()):
            yield f"ulimits.{limit}", "has no limit", "core: 0, nofile: {soft: 16384, hard: 16384}"
    logging = service.get("logging") or {}
    options = logging.get("options") or {}
    bounded = all(pattern.fullmatch(str(options.get(name, ""))) for name, pattern in rules.LOGGING.items())
    if logging.get("driver") != "json-file" or not bounded:
        yield "logging", "logs grow without bound or leave this machine", "driver: json-file; max-size, max-file"


def _number(value: Any) -> float:
    """A limit as a number; what is none counts as no limit."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1


def _networks(networks: Mapping[str, Any]) -> Iterator[Fault]:
    """Networks that are not what their names say."""
    real = _real(networks)
    count = Counter(real.values())
    for name in sorted(networks):
        place, network = f"networks.{name}", networks[name] or {}
        if count[real[name]] > 1:
            yield Fault(f"{place}.name", f'two networks are called "{real[name]}"', "give each a name of its own")
        if real[name] in rules.ENGINES:
            yield Fault(f"{place}.name", f'"{real[name]}" is a network of the engine itself', "leave name out")
        if network.get("external") and name != rules.SHARED:
            yield Fault(f"{place}.external", "others made it and may be on it", f"only {rules.SHARED} may be")
    for name in rules.CLOSED:
        network = networks.get(name) or {}
        if not network.get("internal"):
            yield Fault(f"networks.{name}.internal", "the network has a way out", "internal: true")
        if (network.get("driver_opts") or {}).get("com.docker.network.bridge.gateway_mode_ipv4") != "isolated":
            hint = "driver_opts: com.docker.network.bridge.gateway_mode_ipv4: isolated"
            yield Fault(f"networks.{name}.driver_opts", "the host is reachable at the gateway address", hint)


def _real(networks: Mapping[str, Any]) -> dict[str, str]:
    """What the engine calls each network."""
    return {key: str((network or {}).get("name") or key) for key, network in networks.items()}


def _membership(services: Mapping[str, Any], networks: Mapping[str, Any]) -> Iterator[Fault]:
    """Services on networks where they must not be, under whichever key."""
    real = _real(networks)
    for name, service in sorted(services.items()):
        joined = set(service.get("networks") or {})
        joined |= {key for key in real if real[key] in {real.get(each, each) for each in joined}}
        allowed = rules.NETWORKS.get(name, ())
        if wrong := sorted(joined - set(allowed)) if allowed else []:
            yield Fault(f"services.{name}.networks", f"must not be on {', '.join(wrong)}", f"only {', '.join(allowed)}")


def _image(image: str) -> Iterator[tuple[str, str, str]]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield "image", f'"{image}" may be another one tomorrow', "name a version or a digest"
    if tag.endswith(("-dev", "-debug")):
        yield "image", f'"{image}" is no production image', "use the one without a suffix"


def _environment(service: str, environment: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, value in sorted(environment.items()):
        text = "" if value is None else str(value)
        if SECRET.search(name) and not HARMLESS.fullmatch(text):
            yield f"environment.{name}", "a secret is in the environment", f"mount a file and set {name}_FILE"
    if str(environment.get("LOG_LEVEL") or "").lower() == "debug":
        yield "environment.LOG_LEVEL", "debug logs are on", "leave it out"
    if environment.get("DEBUGGER_PORT"):
        yield "environment.DEBUGGER_PORT", "a debugger may attach", "leave it out"
    for name, wanted in rules.SWITCHES.get(service, {}).items():
        if environment.get(name) != wanted:
            yield f"environment.{name}", "a protection may be off", f"{name}: {wanted}"
