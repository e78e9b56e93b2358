"""Crowds without a key at the published port of production, and a client with one beside them.

In an engine of the test's own, for it is to be one that this checkout starts: ports forwarded by the kernel. Everything is
on 127.0.0.1, so all clients have one address there, as clients of one machine have.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import shipyard
from shipyard.commands.engine import keep_loopback
from tests.support.crowds import crowd
from tests.support.own_engine import OwnEngine, compose, own_engine
from tests.support.service import wait_until
from tests.support.stack import Checkout, checkout

#: Requests of one measurement; the 99th percentile is the sixth from the end.
REQUESTS = 600
#: Seconds between two requests: all of them last longer than twice the five that a client without a key has for a head,
#: so that many connections end, and are opened again, meanwhile.
PAUSE = 0.02


class World(NamedTuple):
    """An engine, and in it the balancer and the API of production."""

    engine: OwnEngine
    copy: Checkout

    @property
    def port(self) -> int:
        return self.copy.ports["LLM_CALL_API_PORT"]

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {(self.copy.root / 'secrets/client_key').read_text().strip()}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with checkout(tmp_path_factory.mktemp("crowds")) as copy:
        copy.invoke("build", "--image", "api", "--image", "balancer")
        project = shipyard.config.load(copy.root)
        shipyard.secrets.init(project)
        shipyard.dotenv.write(project)
        outer = shipyard.engine.find()
        images = [f"llm-call-{name}:{project.version}" for name in ("api", "balancer")]
        with pytest.MonkeyPatch.context() as patch, own_engine(copy, patch) as engine:
            engine.load(outer, images)
            compose(copy, "up", "--detach", "--wait", "--no-deps", "balancer", "llm-call-api")
            found = World(engine, copy)
            wait_until(lambda: shipyard.entrance.instances(("127.0.0.1", found.port)) == 1, "the instance", 20)
            yield found


class Times(NamedTuple):
    """Seconds of each request, sorted, and whatever was no answer 200."""

    seconds: list[float]
    failed: list[object]

    @property
    def p99(self) -> float:
        return self.seconds[len(self.seconds) * 99 // 100]


def measure(world: World) -> Times:
    """One request after the other, half of them by a connection that is kept, half by one of its own."""
    times, failed = [], list[object]()
    kept = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    for number in range(REQUESTS):
        time.sleep(PAUSE)
        connection = kept if number % 2 else http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
        began = time.perf_counter()
        try:
            connection.request("GET", "/v1/models", headers=world.headers())
            response = connection.getresponse()
            response.read()
            if response.status != http.client.OK:
                failed.append(response.status)
        except (OSError, http.client.HTTPException) as failure:
            failed.append(failure)
            connection.close()
        times.append(time.perf_counter() - began)
        if connection is not kept:
            connection.close()
    kept.close()
    return Times(sorted(times), failed)


CROWDS = {
    "silent": (10_000, 1),
    "half": (10_000, 1),
    "drip": (5_000, 1),
    "body": (2_600, 1),
    "wrong-key": (2_600, 1),
    "chunked": (2_600, 1),
    "http10": (2_600, 1),
    "idle-after": (1_000, 1),
    "slow-reader": (1_000, 1),
    "garbage": (2_600, 1),
    "tls": (2_600, 1),
    "many sources": (10_000, 200),
}


@pytest.fixture(scope="module")
def quiet(world: World) -> list[Times]:
    """What was measured without a crowd so far, the latest last."""
    return [measure(world)]


@pytest.mark.parametrize("name", CROWDS)
def test_a_client_with_a_key_feels_nothing_of_a_crowd_without_one(world: World, quiet: list[Times], name: str) -> None:
    """Its p99 is at most twice the usual, measured right before and after in the same run; no request fails."""
    count, sources = CROWDS[name]
    before = quiet[-1]
    with crowd("silent" if sources > 1 else name, world.port, count, sources) as other:
        beside = measure(world)
    after = measure(world)
    quiet.append(after)
    usual = max(before.p99, after.p99)
    shown = f"p99 {before.p99 * 1e3:.1f} ms before, {beside.p99 * 1e3:.1f} beside, {after.p99 * 1e3:.1f} after"
    sys.stdout.write(f"{name} x {count}: {shown}; {other.seen}\n")
    assert before.failed == beside.failed == after.failed == []
    assert beside.p99 <= 2 * usual, shown


def test_a_dead_port_is_a_fault_that_names_its_remedy(world: World) -> None:
    """The container is healthy all the time; only what leads to it is gone."""
    (shown,) = world.copy.json("status")["published"]
    assert (shown["port"], shown["answers"], shown["mend"]) == (f"127.0.0.1:{world.port}", True, "")
    subprocess.run([iptables(), "--table", "nat", "--flush", "DOCKER"], check=True)
    found = world.copy.json("status")
    (shown,) = found["published"]
    assert not shown["answers"]
    assert {each["health"] for each in found["services"]} == {"healthy"}
    doctor = world.copy.start("doctor", "--json")
    output, _ = doctor.communicate(timeout=120)
    assert doctor.returncode == 24
    assert shown["mend"] in output
    subprocess.run(shlex.split(shown["mend"]), check=True, timeout=120)
    wait_until(lambda: world.copy.json("status")["published"][0]["answers"], "the port to answer", 30)


def test_the_engine_says_what_it_was_granted(world: World) -> None:
    status = world.copy.json("engine.status")
    limits = Path(f"/proc/{world.engine.pid()}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert (str(status["open_files"]), status["forwards"]) == (line.split()[-2], "kernel")
    assert f"shipyard: {status['open_files']} open files granted" in (world.engine.home / "dockerd.log").read_text()
    assert f"{status['open_files']} open files" in world.copy.json("status")["engine"]


def test_a_container_does_not_reach_the_loopback_of_its_host(world: World) -> None:
    """Forwarding 127.0.0.1 in the kernel would let it in; one that may change its own routes shows that without the rule."""
    name = compose(world.copy, "ps", "--quiet", "llm-call-api").strip()
    engine = shipyard.engine.find()
    found = shipyard.containers.look(engine, name)
    assert found
    inside = ["nsenter", "--net", "--target", str(found.process)]
    gateway = subprocess.run(
        [*inside, "ip", "route", "show", "default"], check=True, capture_output=True, text=True
    ).stdout.split()[2]
    for words in (
        ["sh", "-c", "for each in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $each; done"],
        ["ip", "address", "delete", "127.0.0.1/8", "dev", "lo"],
        ["ip", "route", "add", "127.0.0.1/32", "via", gateway],
    ):
        subprocess.run([*inside, *words], check=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        probe = f"import socket; socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 3)"

        def reaches() -> bool:
            return (
                subprocess.run([*inside, sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0
            )

        assert not reaches()
        subprocess.run(keep_loopback(iptables(), "--delete"), check=True)
        assert reaches(), "the control: the rule is what keeps it out"
        subprocess.run(keep_loopback(iptables(), "--insert"), check=True)
        assert not reaches()


def iptables() -> str:
    """The engine's own, or the machine's."""
    path = f"{shipyard.engine.find().path}{os.pathsep}{os.environ['PATH']}"
    return str(shutil.which("iptables", path=path))


def accept(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return
