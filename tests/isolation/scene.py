"""What surrounds an attacked stack: controls, doubles of what must not be reached, and the addresses of it all."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.attacked import Attacked, masked
from tests.support.outside import OPEN_PORT, PROXY_PORT, Outside, heard, stand_in
from tests.support.peers import Peers, networks, peers

ENTRANCE = "granger"
"""The service that peers reach; it alone has joined their network."""
DECOY = "llmc-worth-nothing-but-to-be-found"
MODEL_PORT = 11434
NAME = "world.outside.test"


@dataclass(frozen=True)
class Scene:
    """A stack, its surroundings, and facts for attempts from inside and for their controls."""

    stack: Attacked
    world: Outside
    peers: Peers
    proxy: str
    runner: str
    plain: str
    open: str
    peer: str
    facts: dict[str, str]
    peer_facts: dict[str, str]
    controls: dict[str, str]

    def heard(self) -> list[str]:
        """What any of the stand-ins was told so far, whoever told it."""
        places = ("outside", "gateway", "model", "peer")
        return [said for place in places for said in heard(self.facts[place])]


@contextmanager
def scene(stack: Attacked, world: Outside) -> Iterator[Scene]:
    """Set it up around a running stack; everything but the stack is gone afterwards."""
    copy = stack.copy
    proxy, runner = copy.container("claude-proxy"), copy.container("claude-runner-1")
    image = copy.docker("inspect", "--format", "{{.Config.Image}}", proxy).strip()
    inner = _networks(stack)
    with peers(copy, image) as made:
        bridge, granger = made.network("bridge"), stack.granger
        for name in ("agent", "data", "runners"):
            subnet = inner[name]["IPAM"]["Config"][0]["Subnet"]
            world.swallow(subnet)
            made.at_the_end(world.release, subnet)
        model = made.stand_in(
            "model", f"--network={inner['outbound']['Name']}", "--network-alias=ollama", ports=(OPEN_PORT, MODEL_PORT)
        )
        resolver = f"--dns={world.address}"
        peer = made.stand_in(
            "peer", f"--network={granger}", "--network-alias=granger-peer", resolver, ports=(OPEN_PORT,)
        )
        mounts = [
            f"--mount=type=volume,source={_volume(stack, name)},target={target}"
            for name, target in (("claude-workspace", "/workspace"), ("runners", "/run/runners"))
        ]
        plain = _plain(stack, world, made, bridge, mounts)
        for name in ("agent", "data", "runners", "llm-call-network", "outbound"):
            made.join(inner[name]["Name"], plain)
        made.join(granger, plain)
        _plant(stack, plain)
        privileged = made.container("open", "--privileged", "--network=host", f"--pid=container:{runner}", *mounts)
        facts = {
            **_addresses(stack, inner),
            **_outside(stack, world, bridge),
            "model": networks(copy, model)["outbound"]["IPAddress"],
            "peer": _only(networks(copy, peer))["IPAddress"],
            "runner_pid": _pid(stack, runner),
        }
        peer_facts = {**facts, "proxy": "llm-call-api", "proxy_port": "8001"}
        controls = {**facts, "first": facts["gateway"], "proxy": world.address, "proxy_port": str(PROXY_PORT)}
        controls |= {"link": _bridge(inner), "secrets": masked([DECOY])}
        with stand_in("--tcp", str(OPEN_PORT), "--udp", str(OPEN_PORT), "--address", *_listening(facts, inner)):
            yield Scene(stack, world, made, proxy, runner, plain, privileged, peer, facts, peer_facts, controls)


def _plain(stack: Attacked, world: Outside, made: Peers, bridge: str, mounts: list[str]) -> str:
    """An ordinary container: no limits, the engine's own defaults, a way out; and a secret to be found."""
    return made.container(
        "plain",
        *(f"--network=name={bridge},gw-priority=1", f"--dns={world.address}", "--workdir=/tmp", "--ulimit=core=-1"),
        *("--add-host=host.docker.internal:host-gateway", "--tmpfs=/run/secrets", "--tmpfs=/tmp:exec", *mounts),
        *("--label=isolation=plain", f"--env=DECOY={DECOY}"),
    )


def _plant(stack: Attacked, plain: str) -> None:
    """What an attempt at root finds: in the proxy's workspace, and in the image of the control."""
    for place in ("/usr/bin/id-of-root", "/workspace/id-of-root"):
        stack.copy.docker("exec", plain, "install", "-m", "4755", "/usr/bin/id", place)
    stack.copy.docker("exec", plain, "mkdir", "-p", "/workspace/sessions")
    stack.copy.docker("exec", plain, "chown", "10004:10004", "/workspace/sessions")
    stack.copy.docker("exec", plain, "sh", "-c", "echo $DECOY >/etc/decoy")


def _networks(stack: Attacked) -> dict[str, Any]:
    """The engine's description of the project's networks, by their short names."""
    listed = stack.copy.docker("network", "ls", "--quiet", "--filter", f"label={stack.label}").split()
    found = json.loads(stack.copy.docker("network", "inspect", *listed))
    return {each["Labels"]["com.docker.compose.network"]: each for each in found}


def _volume(stack: Attacked, name: str) -> str:
    words = ("volume", "ls", "--quiet", "--filter", f"label={stack.label}")
    return stack.copy.docker(*words, "--filter", f"label=com.docker.compose.volume={name}").strip()


def _addresses(stack: Attacked, inner: dict[str, Any]) -> dict[str, str]:
    """Where the services are on networks that a runner does not share with them."""
    copy = stack.copy
    of = {name: networks(copy, container) for name, container in stack.services().items()}
    return {
        "first": str(next(ipaddress.ip_network(inner["runners"]["IPAM"]["Config"][0]["Subnet"]).hosts())),
        "edge_gateway": inner["llm-call-network"]["IPAM"]["Config"][0]["Gateway"],
        "outbound_gateway": inner["outbound"]["IPAM"]["Config"][0]["Gateway"],
        **{f"{name}_{each}": found[each]["IPAddress"] for name, found in of.items() for each in found},
        "entrance": of["balancer"]["llm-call-network"]["IPAddress"],
        "link_local": _link_local(_bridge(inner)),
        "link": "eth0",
        "proxy": "claude-proxy",
        "proxy_port": str(OPEN_PORT),
        "name": NAME,
        "secrets": masked(stack.secrets()),
        "since": str(stack.since),
    }


def _outside(stack: Attacked, world: Outside, bridge: str) -> dict[str, str]:
    """Where the world is, and where the host is seen from ordinary networks."""

    def gateway(network: str) -> str:
        return str(json.loads(stack.copy.docker("network", "inspect", network))[0]["IPAM"]["Config"][0]["Gateway"])

    return {
        "outside": world.address,
        "outside6": world.address6,
        "host_outside": world.host,
        "host6": world.host6,
        "gateway": gateway(bridge),
        "engine_bridge": gateway("bridge"),
    }


def _bridge(inner: dict[str, Any]) -> str:
    """The host's interface on the network `runners`."""
    return f"br-{inner['runners']['Id'][:12]}"


def _link_local(interface: str) -> str:
    """The host's own address there: it has one, whether the network has IPv6 or not."""
    argv = ["ip", "-json", "-6", "address", "show", "dev", interface, "scope", "link"]
    (found,) = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=10).stdout)
    return str(found["addr_info"][0]["local"])


def _listening(facts: dict[str, str], inner: dict[str, Any]) -> list[str]:
    """Where the host listens during the attacks: nowhere that another machine could reach."""
    named = ("gateway", "edge_gateway", "outbound_gateway", "engine_bridge", "host_outside", "host6")
    return [*(facts[name] for name in named), "::1", f"{facts['link_local']}%{_bridge(inner)}"]


def _pid(stack: Attacked, runner: str) -> str:
    """The number of a runner's own process, as its container counts; it is the same in each of them."""
    lines = stack.copy.docker("exec", runner, "ps", "-eo", "pid=,args=").splitlines()
    own = [line for line in lines if "-m claude_proxy.runner " in line and "docker-init" not in line]
    return min((line.split()[0] for line in own), key=int)


def _only(found: dict[str, Any]) -> Any:
    (each,) = found.values()
    return each
