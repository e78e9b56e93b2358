"""Ports, the registry, certificates and IPv6."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from shipyard.diagnosis.finding import Finding, fail, ok, skip, warn, worst
from shipyard.diagnosis.machine import DRIFT

#: A published port of compose/*.yaml: an address or the variable with its default, the variable of the port, its default.
_PORT = re.compile(r'"(?:\$\{(\w+):-([^}]+)\}|([\d.]+)):\$\{(\w+):-(\d+)\}:\d+"')
#: Programs of engines that hold a port of the machine for a container.
_FORWARDERS = ("dockerd", "docker-proxy", "rootlesskit", "rootlessport", "slirp4netns", "vpnkit")
#: Seconds that make a certificate worth a word before it ends: two weeks.
SOON = 14 * 86400


@dataclass(frozen=True)
class Wanted:
    """A port that a stack publishes, and the variable that moves it. ``always`` when production needs it, too."""

    address: str
    port: int
    variable: str
    always: bool


@dataclass(frozen=True)
class Registry:
    """Where releases go. ``state`` is running, stopped, silent or, for one that is not ours, other; ``problem`` what it says,
    ``taken`` who has the port of one that does not run, ``drift`` the seconds by which its clock is ahead.
    """

    address: str
    state: str
    problem: str = ""
    taken: str = ""
    drift: float = 0.0


@dataclass(frozen=True)
class Authority:
    """A certificate that somebody added to this machine's own: until when (seconds since 1970), and whether the bundle has it."""

    name: str
    until: float
    bundled: bool


@dataclass(frozen=True)
class Trust:
    """What TLS is judged by here. ``named`` are variables that name a bundle which is not there; ``egress`` is
    EGRESS_CA_BUNDLE with ``egress_problem`` for why it cannot be used; ``proxies`` are the hosts of HTTPS_PROXY and HTTP_PROXY.
    """

    bundle: str
    known: int
    authorities: tuple[Authority, ...] = ()
    named: tuple[str, ...] = ()
    egress: str = ""
    egress_problem: str = ""
    proxies: tuple[str, ...] = ()


def published(compose: str, settings: Mapping[str, str], *, always: bool) -> Iterator[Wanted | str]:
    """The ports that a Compose file publishes with these settings; a sentence for each that is none."""
    for variable, default, literal, name, number in _PORT.findall(compose):
        port = settings.get(name) or number
        if port.isdecimal() and 1 <= int(port) <= 65535:
            yield Wanted(literal or settings.get(variable) or default, int(port), name, always)
        else:
            yield f'.env: {name}: "{port}" is not a port'


def forwards(owner: str) -> bool:
    """Whether the owner of a port may be an engine that forwards it to a container, or cannot be seen."""
    return not owner.startswith("process ") or any(name in owner for name in _FORWARDERS)


def ports(
    wanted: Iterable[Wanted],
    taken: Mapping[Wanted, str],
    ours: Collection[int],
    wrong: Iterable[str],
    unknown: Mapping[Wanted, str] | None = None,
) -> Finding:
    """Ports that are free or our own; ``taken`` maps the others to their owner, ``wrong`` is what no stack can publish.

    ``unknown`` are those of some container, where no engine says whose it is.
    """
    wanted, found = list(wanted), [fail(each, "correct .env") for each in wrong]
    for each, owner in taken.items():
        judge, for_whom = (fail, "") if each.always else (warn, ", for host, hybrid and dev or --monitoring")
        seen = f"{each.address}:{each.port} ({each.variable}{for_whom}) is in use by {owner}"
        found.append(judge(seen, f"stop that, or set {each.variable} in .env"))
    if unknown:
        held = ", ".join(f"{each.address}:{each.port} ({each.variable})" for each in unknown)
        found.append(
            skip(f"without the engine's answer it cannot be told whose {held} is: perhaps this checkout's own")
        )
    if found:
        return worst(found)
    mine = [str(each.port) for each in wanted if each.port in ours]
    free = [str(each.port) for each in wanted if each.port not in ours]
    parts = [
        f"{', '.join(free)} free" if free else "",
        f"{', '.join(mine)} of this checkout's own stack" if mine else "",
    ]
    return ok("; ".join(filter(None, parts)))


def reached(shown: Iterable[Mapping[str, Any]]) -> Finding:
    """Whether the published port of a stack that runs answers to this machine."""
    found = [
        ok(f"{each['port']} {each['seen']}")
        if each["answers"]
        else fail(f"{each['port']}: {each['seen']}, while the balancer runs", each["mend"])
        for each in shown
    ]
    return worst(found) if found else skip("no balancer of this checkout runs on this machine")


def registry(found: Registry) -> Finding:
    """Whether a release can go where it would."""
    if found.problem:
        return fail(f"{found.address}: {found.problem}", "see to SHIPYARD_REGISTRY and `docker login`")
    if found.state == "silent":
        return fail(f"the embedded one at {found.address} runs and does not answer", "invoke registry.up")
    if found.taken:
        return fail(
            f"{found.address}, where the embedded one would be, is in use by {found.taken}",
            "stop that, or set SHIPYARD_REGISTRY_PORT",
        )
    if abs(found.drift) > DRIFT:
        return fail(f"the clock of {found.address} differs from ours by {found.drift:.0f} s", "set the wrong one")
    if found.state == "stopped":
        return ok(f"the embedded one at {found.address} is stopped; a release starts it")
    return ok(f"{found.address} answers")


def trust(found: Trust, now: float) -> Finding:
    """Certificates: behind a proxy that intercepts TLS builds get the machine's, the egress gateway what .env names."""
    bad = [
        fail(f"{each} is not there, so another bundle is used", f"unset {each.partition('=')[0]}")
        for each in found.named
    ]
    if not found.bundle or not found.known:
        bad.append(
            fail(f"no CA certificates in {found.bundle or 'any known place'}", "apt-get install ca-certificates")
        )
    for each in found.authorities:
        if each.until < now:
            bad.append(warn(f"the certificate {each.name} of this machine has ended", "put a new one in its place"))
        elif each.until < now + SOON:
            bad.append(warn(f"the certificate {each.name} of this machine ends within two weeks", "renew it"))
        if not each.bundled:
            bad.append(warn(f"{found.bundle} lacks {each.name}", "update-ca-certificates"))
    if found.egress_problem:
        bad.append(
            fail(f"EGRESS_CA_BUNDLE={found.egress}: {found.egress_problem}", "set it to a bundle's absolute path")
        )
    elif found.authorities and not found.egress:
        names = ", ".join(each.name for each in found.authorities)
        bad.append(
            warn(
                f"this machine trusts {names} besides: a proxy may intercept TLS, and the egress gateway trusts "
                "its own image's",
                f"if max/* models fail, write EGRESS_CA_BUNDLE={found.bundle} into .env",
            )
        )
    if bad:
        return worst(bad)
    via = f", by way of {', '.join(found.proxies)}" if found.proxies else ""
    return ok(f"{found.known} certificates in {found.bundle}{via}")


def proxy_host(url: str) -> str:
    """A proxy without the login that its URL may hold."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        return f"{parts.hostname or '?'}:{parts.port}" if parts.port else parts.hostname or "?"
    except ValueError:
        return parts.hostname or "?"


def ipv6(present: bool, address: str, strangers: Iterable[str]) -> Finding:
    """Whether IPv6 stands in the way. ``strangers`` are ports at ::1 that somebody else has: localhost may mean those."""
    if ":" in address and not present:
        return fail(
            f"LLM_CALL_API_ADDRESS={address}, and this machine has no IPv6",
            "set LLM_CALL_API_ADDRESS=127.0.0.1 in .env, or `sysctl net.ipv6.conf.all.disable_ipv6=0`",
        )
    if found := list(strangers):
        return warn(
            f"somebody else has {', '.join(found)}, which is where clients may look for localhost first",
            "say 127.0.0.1 instead of localhost, or stop that",
        )
    return ok("there; the stack needs none" if present else "none, and the stack needs none")
