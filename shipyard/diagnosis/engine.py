"""What the engine says of itself (`GET /info`), held against what the stack and the builds need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipyard.diagnosis import numbers
from shipyard.diagnosis.finding import Finding, fail, ok, warn, worst

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


def settings(info: Mapping[str, Any], daemon: Mapping[str, Any]) -> Finding:
    """Settings of the whole engine by which a start fails, or what keeps services apart is lost without a word.

    ``daemon`` is how it was started, as far as that can be seen. Looked at and harmless, as every service of ours says for
    itself what it gets or needs no such thing: no-new-privileges, default-ulimits, log-driver, default-shm-size,
    default-ipc-mode, default-cgroupns-mode, live-restore; icc, which is about the default bridge only; userland-proxy, without
    which the kernel alone forwards published ports.
    """
    found = [*_ids(info), *_networks(info, daemon), *_confinement(info)]
    return worst(found) if found else ok("none by which a start fails")


def _options(info: Mapping[str, Any]) -> dict[str, str]:
    """SecurityOptions of /info by their names: ``name=seccomp,profile=builtin``."""
    pairs = (str(each).removeprefix("name=").partition(",") for each in info.get("SecurityOptions") or ())
    return {name: rest.removeprefix("profile=") for name, _, rest in pairs}


def _ids(info: Mapping[str, Any]) -> Iterator[Finding]:
    options = _options(info)
    why = "gives containers other user ids than this machine's, so that no service may read its files in secrets/"
    other = "or use another engine: DOCKER_HOST"
    if "rootless" in options:
        yield fail(f"the engine runs rootless and {why}", "install Docker Engine for the whole machine", other)
    elif "userns" in options:
        advice = "take userns-remap out of its daemon.json or command line, and restart it"
        yield fail(f"the engine has userns-remap: it {why}", advice, other)


def _networks(info: Mapping[str, Any], daemon: Mapping[str, Any]) -> Iterator[Finding]:
    restart = "out of its daemon.json or command line, and restart it"
    if daemon.get("iptables") is False:
        yield fail(
            "the engine has iptables=false: nothing keeps networks apart, and containers have no way out",
            f"take iptables=false {restart}",
        )
    elif daemon.get("ip-masq") is False:
        yield warn(
            "the engine has ip-masq=false: containers reach the world only where your routers know their networks",
            f"take ip-masq=false {restart}",
        )
    if info.get("IPv4Forwarding") is False:
        yield fail(
            "this kernel forwards no packets: containers have no way out, and nobody reaches their ports",
            "sysctl -w net.ipv4.ip_forward=1, and write it into /etc/sysctl.d/",
        )


def _confinement(info: Mapping[str, Any]) -> Iterator[Finding]:
    options = _options(info)
    profile, runtime = options.get("seccomp", ""), str(info.get("DefaultRuntime") or "runc")
    if profile not in ("", "builtin", "default", "unconfined"):  # without any: see the check "kernel"
        yield warn(
            f"the engine has a seccomp profile of its own ({profile}): claude-proxy needs landlock and seccomp in it",
            "start from Docker's own profile (moby/profiles/seccomp/default.json)",
        )
    if "selinux" in options:
        yield warn(
            "the engine labels containers for SELinux: they may read no file of this checkout that has another label",
            "chcon -Rt container_file_t secrets config src .shipyard",
        )
    if runtime not in ("runc", "crun", "io.containerd.runc.v2", "nvidia"):
        yield warn(
            f"containers run by {runtime}: claude-proxy does not start where that offers no Landlock",
            "take default-runtime out of its daemon.json, and restart it",
        )


def base(image: str, remembered: str, present: bool) -> Finding:
    """Whether builds have something to start from; the first one makes it."""
    if remembered and present:
        return ok(f"{image} is {remembered}")
    gone = f"{remembered} is gone" if remembered else f"{image} is not prepared yet"
    return warn(f"{gone}; the first build prepares it", "invoke base", fix="base")
