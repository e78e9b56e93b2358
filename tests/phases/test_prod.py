"""`invoke prod`: production images, and nothing published but the API."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shipyard.models import LABEL_REFERENCE
from tests.phases import paths
from tests.support.service import wait_until
from tests.support.stack import Checkout, checkout

SERVICES = ("balancer", "llm-call-api", "claude-proxy", "egress", "redis")
#: Variables of each service that name a user: no two services have the same.
USERS = {"llm-call-api": 10001, "redis": 10002, "egress": 10003, "claude-proxy": 10004, "balancer": 10005}


RUNNERS = tuple(f"claude-runner-{number}" for number in range(1, 9))


@pytest.fixture(scope="module")
def prod(production: Checkout) -> Iterator[Checkout]:
    production.invoke("prod")
    yield production


@pytest.mark.parametrize("path", paths.EVERY)
def test_every_path(prod: Checkout, path: paths.Path) -> None:
    path(prod)


def test_only_the_api_is_published(prod: Checkout) -> None:
    assert paths.published(prod) == {"balancer"}


@pytest.mark.parametrize("service", SERVICES)
def test_services_run_hardened(prod: Checkout, service: str) -> None:
    (found,) = json.loads(prod.docker("inspect", prod.container(service)))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]  # and with it the engine's own seccomp profile
    assert host["Init"] is True
    assert host["RestartPolicy"]["Name"] == "always"
    assert min(host["PidsLimit"], host["Memory"], host["NanoCpus"]) > 0
    assert host["MemorySwap"] == host["Memory"]
    assert {each["Name"]: each["Hard"] for each in host["Ulimits"]} == {"core": 0, "nofile": 16384}
    assert all("size=" in options and "noexec" in options for options in host["Tmpfs"].values())
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    assert found["State"]["Health"]["Status"] == "healthy"
    assert found["Config"]["User"] == f"{USERS[service]}:{USERS[service]}"
    assert [mount for mount in found["Mounts"] if mount["Type"] == "bind" and mount["RW"]] == []


@pytest.mark.parametrize("service", SERVICES)
def test_the_kernel_agrees(prod: Checkout, service: str) -> None:
    """What the engine was asked for is what the process has: user, capabilities, no new privileges, a seccomp filter."""
    (found,) = json.loads(prod.docker("inspect", prod.container(service)))
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{found['State']['Pid']}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [str(USERS[service])] * 4
    assert {status[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_runners_run_hardened_each_with_a_user_of_its_own(prod: Checkout) -> None:
    users = set()
    for service in RUNNERS:
        (found,) = json.loads(prod.docker("inspect", prod.container(service)))
        host = found["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"], host["Init"]) == (True, ["ALL"], None, True)
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (1 << 30, 1 << 30, 256)
        limits = {each["Name"]: each["Hard"] for each in host["Ulimits"]}
        assert limits == {"core": 0, "nofile": 4096, "sigpending": 1024, "msgqueue": 0, "memlock": 65536}
        assert {place: "size=" in options for place, options in host["Tmpfs"].items()}["/run/work"]
        assert [(each["Destination"], each["RW"]) for each in found["Mounts"]] == [("/run/runners", False)]
        assert list(found["NetworkSettings"]["Networks"]) == [f"{prod.project}_runners"]
        status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
        told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {told[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
        users.add(told["Uid"])
    assert len(users) == len(RUNNERS)
    assert not {str(user) for user in USERS.values()} & {each.split()[0] for each in users}


def test_networks_hold_those_who_need_them(prod: Checkout) -> None:
    members: dict[str, list[str]] = {"llm-call-network": [], "data": [], "agent": [], "runners": [], "outbound": []}
    for service in SERVICES:
        (found,) = json.loads(prod.docker("inspect", prod.container(service)))
        for network in found["NetworkSettings"]["Networks"]:
            members[network.removeprefix(f"{prod.project}_")].append(service)
    assert members == {
        "llm-call-network": ["balancer", "llm-call-api"],
        "data": ["llm-call-api", "redis"],
        "agent": ["llm-call-api", "claude-proxy", "egress"],
        "runners": ["claude-proxy"],
        "outbound": ["llm-call-api", "egress"],
    }


def test_redis_asks_for_a_password_and_refuses_what_is_dangerous(prod: Checkout) -> None:
    assert "NOAUTH" in prod.docker("exec", prod.container("redis"), "redis-cli", "get", "x")
    for words in (
        ("flushall",),
        ("config", "get", "*"),
        ("keys", "*"),
        ("shutdown",),
        ("info",),
        ("get", "other:key"),
    ):
        assert "NOPERM" in prod.redis(*words), words


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_is_in_the_environment(prod: Checkout, service: str) -> None:
    told = prod.docker("inspect", prod.container(service)) + prod.invoke("logs", "--service", service).stdout
    values = [path.read_text().strip() for path in (prod.root / "secrets").rglob("*") if path.is_file()]
    assert [value for value in values if value and value in told] == []


def test_data_survives_down_and_up(prod: Checkout) -> None:
    assert prod.redis("set", "llm-call:kept", "yes") == "OK"
    prod.invoke("down")
    prod.invoke("prod")
    assert prod.redis("get", "llm-call:kept") == "yes"


def test_idle_services_stop_at_once(prod: Checkout) -> None:
    """Each within two seconds and what the engine itself needs, far from its grace period, and none by a kill."""
    for service in (*SERVICES, RUNNERS[0]):
        container = prod.container(service)
        begin = time.monotonic()
        prod.docker("stop", container)
        seconds = time.monotonic() - begin
        (found,) = json.loads(prod.docker("inspect", container))
        assert found["State"]["ExitCode"] in (0, 143), (service, found["State"])
        assert seconds < found["Config"]["StopTimeout"] / 2, service
    prod.invoke("prod")
    wait_until(lambda: prod.ask("GET", "/health")[1]["status"] == "ok", "every dependency")


def images_of(stack: Checkout) -> dict[str, str]:
    """The image of each service's containers, by its id."""
    found = json.loads(stack.docker("inspect", *stack.containers()))
    return {each["Config"]["Labels"]["com.docker.compose.service"]: each["Image"] for each in found}


def test_containers_are_started_by_the_digest_that_was_built(prod: Checkout) -> None:
    """Whoever builds the same version at that moment gives its name to other bytes; people read the name all the same."""
    found = json.loads(prod.docker("inspect", *prod.containers()))
    ours = [each for each in found if LABEL_REFERENCE in each["Config"]["Labels"]]
    assert len(ours) >= len(SERVICES)
    assert [each["Config"]["Image"] for each in ours] == [each["Image"] for each in ours]
    shown = {each["service"]: each["image"] for each in prod.json("status")["services"]}
    assert {service: shown[service].partition(":")[0] for service in ("llm-call-api", "redis")} == {
        "llm-call-api": "llm-call-api",
        "redis": "llm-call-redis",
    }


#: `invoke prod`, where another checkout names its own images right after this one has built.
_RETAGGED = """
import sys
from pathlib import Path
import docker
import shipyard
from shipyard import images, models, stack
engine, build = shipyard.engine.find(), images.build
def then(*arguments):
    made = build(*arguments)
    client = docker.DockerClient(base_url=engine.host)
    for each, other in zip(made, [*made[1:], made[0]]):
        client.api.tag(other.digest, *each.reference.split(":"))
    return made
images.build = then
try:
    stack.up(shipyard.config.load(Path(sys.argv[1])), engine, models.Selection("prod"))
finally:
    client = docker.DockerClient(base_url=engine.host)
    for each in build(shipyard.config.load(Path(sys.argv[1])), engine, images.Request()):
        client.api.tag(each.digest, *each.reference.split(":"))
"""


def test_names_that_move_between_build_and_start(prod: Checkout) -> None:
    """Each container is of the image that was built for it, whatever its name says by then."""
    before = images_of(prod)
    prod.invoke("down")
    subprocess.run(
        [sys.executable, "-c", _RETAGGED, str(prod.root)],
        cwd=prod.root,
        env=prod.environment(),
        check=True,
        timeout=300,
    )
    assert images_of(prod) == before
    paths.healthy(prod)


def test_plain_docker_compose_does_it_too(prod: Checkout) -> None:
    """The same files, without the toolkit: the same images, which it takes by name; so it makes the containers again."""
    before = images_of(prod)
    assert set(before) >= set(SERVICES)
    prod.compose("-f", "compose/compose.yaml", "-f", "compose/prod.yaml", "up", "-d", "--wait")
    assert images_of(prod) == before
    prod.compose("-f", "compose/compose.yaml", "-f", "compose/prod.yaml", "down")
    prod.compose("-f", "compose/compose.yaml", "-f", "compose/prod.yaml", "up", "-d", "--wait")
    # Compose knows that each is healthy, not that the balancer has found the API's address: `invoke prod` waits for that.
    wait_until(lambda: prod.ask("GET", "/v1/models")[0] == 200, "the API behind the balancer")
    volumes = prod.docker(
        "volume", "ls", "--format", "{{.Name}}", "--filter", f"label=com.docker.compose.project={prod.project}"
    )
    assert {name.removeprefix(f"{prod.project}_") for name in volumes.split()} == {
        "entrance",
        "llm-call-cache",
        "redis-data",
        "claude-workspace",
        "runners",
    }
    prod.invoke("prod")
    paths.healthy(prod)


def test_two_checkouts_side_by_side(prod: Checkout, tmp_path_factory: pytest.TempPathFactory) -> None:
    with checkout(tmp_path_factory.mktemp("second")) as other:
        other.invoke("prod")
        assert other.json("status")["project"] != prod.json("status")["project"]
        assert other.ask("GET", "/health")[0] == 200
        other.invoke("down")
    paths.healthy(prod)


def test_a_service_that_cannot_start_is_named_and_taken_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    with checkout(tmp_path_factory.mktemp("broken")) as broken:
        models = broken.root / "config/models.toml"
        models.write_text(models.read_text() + '\n[model."x"]\nupstream = "nowhere"\n')
        refused = broken.invoke("prod", status=10)
        assert "llm-call-api" in refused.stderr
        assert "nowhere" in refused.stderr
        assert broken.json("status")["services"] == []


def test_what_must_not_be_in_production_is_refused(prod: Checkout) -> None:
    overlay = prod.root / "compose/prod.yaml"
    text = overlay.read_text()
    open_redis = 'services:\n  redis:\n    ports: ["6379:6379"]\n    environment: { API_KEY: x }\n'
    overlay.write_text(text.replace("services:\n", open_redis))
    try:
        for verb in (("config", "--overlay", "prod"), ("prod",)):
            refused = prod.invoke(*verb, status=3)
            assert "services.redis.ports: an internal port is published" in refused.stderr
            assert "services.redis.environment.API_KEY: a secret is in the environment" in refused.stderr
    finally:
        overlay.write_text(text)
    difference = prod.json("config", "--diff", "dev")["from prod to dev"]
    assert "+ services.llm-call-api.environment.LOG_LEVEL: debug" in difference
    paths.healthy(prod)


def test_a_crash_after_a_reload_is_a_crash(prod: Checkout) -> None:
    """The engine takes a container that was sent any signal for stopped by hand; the restart policy has to outdo that."""
    container = prod.container("llm-call-api")
    prod.docker("kill", "--signal", "HUP", container)
    wait_until(lambda: "models reloaded" in prod.invoke("logs", "--service", "llm-call-api").stdout, "the reload")
    os.kill(int(prod.docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)
    wait_until(
        lambda: prod.docker("inspect", "--format", "{{.RestartCount}}", container).strip() == "1", "the restart", 30
    )

    def answers() -> bool:
        try:
            return bool(prod.ask("GET", "/health")[0] == 200)
        except OSError:
            return False

    wait_until(answers, "the API", 30)


def test_a_key_counts_and_is_revoked_without_a_restart(prod: Checkout) -> None:
    """Also when an editor replaces the file instead of writing into it."""
    path, key = prod.root / "secrets/api/api_keys", f"k-{secrets.token_hex(16)}"
    earlier = path.read_text()

    def save(text: str) -> None:
        path.unlink()
        path.write_text(text)

    def status() -> int:
        return int(prod.ask("GET", "/v1/models", authorization=f"Bearer {key}")[0])

    assert status() == 401
    save(earlier + f"hub:{hashlib.sha256(key.encode()).hexdigest()} models=max/*\n")
    try:
        wait_until(lambda: status() == 200, "the new key")
    finally:
        save(earlier)
    wait_until(lambda: status() == 401, "its end")


def test_large_requests_never_exhaust_the_gateway(prod: Checkout) -> None:
    """More of them at once than its memory could hold: some are told to come back, none takes the others down."""
    restarts = prod.docker("inspect", "--format", "{{.RestartCount}}", prod.container("llm-call-api")).strip()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 19_000_000}}
    large = paths.chat("openai/gpt-test", "x") | {"messages": [{"role": "user", "content": [image]}]}
    values = {"model": "openai/gpt-test", "messages": [[]] * 6_000_000}
    with ThreadPoolExecutor(12) as clients:
        asking = [clients.submit(prod.ask, "POST", "/v1/chat/completions", large) for _ in range(24)]
        statuses = {each.result()[0] for each in asking}
    assert 200 in statuses
    assert statuses <= {200, 503}
    assert prod.ask("POST", "/v1/chat/completions", values)[0] == 413
    assert prod.docker("inspect", "--format", "{{.RestartCount}}", prod.container("llm-call-api")).strip() == restarts
