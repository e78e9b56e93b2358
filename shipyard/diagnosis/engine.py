"""What the engine says of itself (`GET /info`), held against what the stack and the builds need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipyard.diagnosis import numbers
from shipyard.diagnosis.finding import Finding, fail, ok, warn

#: The first engine that knows the gateway mode "isolated" (its network documentation for 28.0). Tried: 26.1.5 takes the
#: option without a word and gives the bridge an address of the host all the same; 28.5.2 does not.
OLDEST = (28, 0)
_NEWER = f"install Docker Engine {OLDEST[0]} or newer"
#: How its image store is called in /info, and what turns it on.
_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
_TURN_ON = '{"features": {"containerd-snapshotter": true}} in its daemon.json, then restart it'
#: Limits of compose/*.yaml by the field of /info that says whether the kernel can keep them.
_LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "CPU", "PidsLimit": "processes"}


@dataclass(frozen=True)
class Reached:
    """The engine that was looked for. ``wanted`` is DOCKER_HOST; ``obstacle`` is why none can be unpacked here."""

    kind: str
    host: str
    version: str
    wanted: str = ""
    obstacle: str = ""
    spoken: bool = True


def engine(found: Reached) -> Finding:
    """Whether one answers, and whether it is new enough."""
    if found.kind == "none" and found.wanted:
        return fail(f"DOCKER_HOST={found.wanted} does not answer", "start that engine, or `unset DOCKER_HOST`")
    if found.kind == "none" and found.obstacle:
        advice = f"{_NEWER}, with buildx and Compose, or set DOCKER_HOST"
        return fail(f"none answers, and none can be unpacked here because {found.obstacle}", advice)
    if found.kind == "none":
        return fail("none answers", "invoke engine.up", fix="engine")
    seen = f"{found.kind} {found.version} at {found.host}"
    if not found.spoken:
        forward = "forward its socket: `ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST`"
        return fail(
            f"{seen}: the toolkit speaks to unix:// and tcp:// only",
            f"{forward}, and set DOCKER_HOST=unix:///tmp/docker.sock",
        )
    if numbers.older(found.version, OLDEST):
        return warn(f"{seen}, older than {numbers.show(OLDEST)}", _NEWER)
    return ok(seen)


def store(info: Mapping[str, Any], host: str) -> Finding:
    """Whether images of several platforms can be held, which a release needs."""
    if _STORE in (info.get("DriverStatus") or []):
        return ok(f"containerd ({info.get('Driver', '')})")
    return fail(
        f"the engine at {host} does not use the containerd image store, so it cannot build several platforms at once",
        f"set {_TURN_ON}",
    )


def isolation(version: str) -> Finding:
    """Whether networks can be kept from reaching the host: an older engine ignores the option silently."""
    old = numbers.older(version, OLDEST)
    if old is None:
        return warn(f'"{version}" is no version, so whether bridges can be isolated is unknown', _NEWER)
    if old:
        return fail(
            f"engine {version} ignores gateway_mode_ipv4=isolated: containers of internal networks reach this machine",
            _NEWER,
        )
    return ok(f"engine {version} keeps internal networks from the host")


def limits(info: Mapping[str, Any]) -> Finding:
    """Whether the kernel can keep the limits that every service has; the engine would only warn and go on."""
    version = f"cgroup v{info.get('CgroupVersion', '?')}"
    lacking = [name for field, name in _LIMITS.items() if info.get(field) is False]
    if lacking:
        controllers = "the cgroup controllers memory, cpu and pids are to be delegated to the engine"
        return fail(f"{version}: no limits of {', '.join(lacking)}", f"{controllers}; boot with cgroup v2")
    if info.get("SwapLimit") is False:
        return warn(f"{version}: no limit of swap, so memory limits can be exceeded", "boot with swapaccount=1")
    return ok(f"{version}, {', '.join(_LIMITS.values())}")


def base(image: str, remembered: str, present: bool) -> Finding:
    """Whether builds have something to start from; the first one makes it."""
    if remembered and present:
        return ok(f"{image} is {remembered}")
    gone = f"{remembered} is gone" if remembered else f"{image} is not prepared yet"
    return warn(f"{gone}; the first build prepares it", "invoke base", fix="base")
