"""`--granger`: a hub and two spokes on the shared network use the API, and reach nothing else of the stack."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.phases import paths
from tests.support import caller, spoke
from tests.support.stack import Checkout

PEERS = ("hub", "spoke-one", "spoke-two")
#: Ports of everything in the stack: of the services, of the debugger, of the monitoring.
PORTS = (8001, 3010, 6379, 8080, 5678, 9090, 9121, 9200, 9300)


@pytest.fixture(scope="module")
def network(copy: Checkout) -> Iterator[str]:
    name = f"granger-{secrets.token_hex(4)}"
    copy.configure(GRANGER_NETWORK=name)
    yield name


@pytest.fixture(scope="module")
def granger(copy: Checkout, network: str) -> Iterator[Checkout]:
    said = copy.invoke("prod", "--granger").stderr
    assert f"made the network {network}" in said
    yield copy
    copy.invoke("down")
    copy.docker("network", "rm", network)


@pytest.fixture(scope="module")
def peers(granger: Checkout, network: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Containers of other projects, by name: each with the service entry and its key."""
    folder = tmp_path_factory.mktemp("peers")
    folder.chmod(0o755)
    (folder / "entry.yaml").write_text('llm_call:\n  url: "http://llm-call-api:8001"\n')
    (folder / "key").write_text(granger.key)
    for path in folder.iterdir():
        path.chmod(0o444)
    image = "llm-call-api:" + (granger.root / "VERSION").read_text().strip()
    # Whoever has the engine may give a peer any name: those of what is behind the entrance are no use to it.
    names = ("api-instance", f"api-instance.{granger.project}_llm-call-network", "balancer")
    aliases = [f"--network-alias={name}" for name in names]
    mounts = [f"--volume={folder}:/peer:ro", f"--volume={Path(spoke.__file__)}:/spoke.py:ro"]
    sleep = ["python3", "-c", "import signal; signal.pause()"]
    found = {}
    try:
        for name in PEERS:
            words = [
                "run",
                "--detach",
                "--init",
                "--no-healthcheck",
                f"--network={network}",
                *aliases,
                *mounts,
                image,
                *sleep,
            ]
            found[name] = granger.docker(*words).strip()
        yield found
    finally:
        for container in found.values():
            granger.docker("rm", "--force", container)


@pytest.mark.parametrize("name", PEERS)
def test_by_its_service_entry(granger: Checkout, peers: dict[str, str], name: str) -> None:
    found = json.loads(granger.docker("exec", peers[name], "python3", "/spoke.py", "/peer/entry.yaml", "/peer/key"))
    assert found["status"] == [200, 200]
    assert found["models"] > 3
    assert "from a spoke" in found["text"]


def test_by_the_host_port(granger: Checkout, tmp_path: Path) -> None:
    """A spoke that runs on the host itself, with the other form of the entry."""
    entry, key = tmp_path / "entry.yaml", tmp_path / "key"
    entry.write_text(f'llm_call: {{url: "http://localhost:{granger.ports["LLM_CALL_API_PORT"]}"}}\n')
    key.write_text(granger.key)
    done = subprocess.run(
        [sys.executable, spoke.__file__, str(entry), str(key)], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["status"] == [200, 200]


def test_nothing_else_has_joined(granger: Checkout, network: str, peers: dict[str, str]) -> None:
    (found,) = json.loads(granger.docker("network", "inspect", network))
    assert set(found["Containers"]) == {granger.container("granger"), *peers.values()}


def test_nothing_else_can_be_reached(granger: Checkout, peers: dict[str, str]) -> None:
    """Neither by name nor by any address that a container of the stack has on any network."""
    names = (
        "balancer",
        "api-instance",
        "claude-proxy",
        "redis",
        "egress",
        "messages-api",
        "openai-upstream",
        "llama-server",
    )
    inspected = json.loads(granger.docker("inspect", *granger.containers()))
    addresses = {
        found["IPAddress"]
        for container in inspected
        for network, found in container["NetworkSettings"]["Networks"].items()
        # The isolated ones have no address of the host: what is sent there would leave the machine (tests/isolation does it
        # with routes of its own).
        if network.endswith(("_llm-call-network", "_outbound")) and found["IPAddress"]
    }
    assert len(addresses) >= 4
    places = [f"{host}:{port}" for host in (*names, *addresses) for port in PORTS if host in addresses or port == 8001]
    tried = json.loads(granger.docker("exec", peers["hub"], "python3", "/spoke.py", "--try", *places))
    assert {place for place, found in tried.items() if found == "connected"} == set()
    entrance = [f"llm-call-api:{port}" for port in PORTS]
    tried = json.loads(granger.docker("exec", peers["hub"], "python3", "/spoke.py", "--try", *entrance))
    assert [place for place, found in tried.items() if found == "connected"] == ["llm-call-api:8001"]


def test_without_a_key_a_peer_gets_nothing(granger: Checkout, peers: dict[str, str]) -> None:
    probe = (
        "import urllib.request as u, urllib.error as e, sys\n"
        "try: print(u.urlopen('http://llm-call-api:8001/v1/models').status)\n"
        "except e.HTTPError as found: print(found.code)"
    )
    assert granger.docker("exec", peers["hub"], "python3", "-c", probe).strip() == "401"


def test_joining_and_leaving_disturb_nobody(granger: Checkout, peers: dict[str, str], network: str) -> None:
    def others() -> set[str]:
        return set(granger.containers()) - set(granger.containers("granger"))

    before = others()
    with caller.calling(granger, caller.models, caller.chat, caller.stream) as record:
        left = granger.invoke("prod").stderr
        without = others()
        joined = granger.invoke("prod", "--granger").stderr
    assert "without granger from now on" in left
    assert before == without == others(), left + joined
    assert record.failures == [], left + joined
    found = json.loads(
        granger.docker("exec", peers["spoke-one"], "python3", "/spoke.py", "/peer/entry.yaml", "/peer/key")
    )
    assert found["status"] == [200, 200]


def test_it_combines_with_every_phase(granger: Checkout, peers: dict[str, str]) -> None:
    for phase in (("hybrid",), ("host", "--api")):
        granger.invoke(*phase, "--granger")
        asked = ("exec", peers["spoke-two"], "python3", "/spoke.py", "/peer/entry.yaml", "/peer/key")
        assert json.loads(granger.docker(*asked))["status"] == [200, 200], phase
    granger.invoke("host", "--api")
    assert granger.containers("granger", stopped=True) == []
    paths.healthy(granger)


def test_a_second_stack_does_not_take_the_name(granger: Checkout, network: str) -> None:
    """Docker's DNS would lead clients to either; another network of its own is what it is told to take."""
    image = "llm-call-api:" + (granger.root / "VERSION").read_text().strip()
    labels = ["--label=com.docker.compose.project=llm-call-of-another", "--label=com.docker.compose.service=granger"]
    sleep = ["python3", "-c", "import signal; signal.pause()"]
    other = granger.docker(
        "run", "--detach", "--init", "--no-healthcheck", f"--network={network}", *labels, image, *sleep
    ).strip()
    before = granger.containers()
    try:
        said = granger.invoke("prod", "--granger", status=10).stderr
        assert f"the network {network}: llm-call-of-another serves there as llm-call-api already" in said
        assert "set GRANGER_NETWORK in .env" in said
    finally:
        granger.docker("rm", "--force", other)
    assert granger.containers() == before
