"""What facts about a machine mean. No engine, no process: each judgement from facts that a machine might give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipyard.diagnosis import engine, machine, network, numbers, open_files, secrets, tools
from shipyard.diagnosis.engine import Reached
from shipyard.diagnosis.finding import FAIL, OK, SKIP, WARN, Finding, fail, ok, skip, warn, worst
from shipyard.diagnosis.machine import Kernel, Place
from shipyard.diagnosis.network import Authority, Registry, Trust, Wanted
from shipyard.models import Fault

ROOT = Path(__file__).parents[3]
HOST = "unix:///engine.sock"
GB = 10**9


# --- findings and versions ---


def test_the_worst_of_several_counts_and_tells_what_is_wrong_alone() -> None:
    assert worst([ok("a"), skip("b")]) == Finding(OK, "a; b")
    assert worst([ok("a"), warn("b", "do b", fix="x"), fail("c", "do c", "do b", fix="x")]) == Finding(
        FAIL, "b; c", ("do b", "do c"), "x"
    )
    assert worst([skip("a")]).state == SKIP


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("28.5.2+dfsg4", (28, 5, 2)),
        ("v2.40.3-desktop.1", (2, 40, 3)),
        (" 0.29.1+ds1\n", (0, 29, 1)),
        ("devel", ()),
        ("", ()),
    ],
)
def test_versions_of_other_people(text: str, expected: tuple[int, ...]) -> None:
    assert numbers.parse(text) == expected


def test_older() -> None:
    assert numbers.older("2.9", (2, 24, 4)) is True
    assert numbers.older("2.24.4", (2, 24, 4)) is False
    assert numbers.older("2.24", (2, 24, 4)) is True
    assert numbers.older("devel", (2, 24, 4)) is None


# --- engine ---


@pytest.mark.parametrize(
    ("info", "daemon", "state", "words"),
    [
        ({}, {}, OK, "none by which a start fails"),
        ({"SecurityOptions": None, "IPv4Forwarding": True, "DefaultRuntime": "runc"}, {"iptables": True}, OK, "none"),
        (
            {
                "SecurityOptions": [
                    "name=seccomp,profile=builtin",
                    "name=cgroupns",
                    "name=no-new-privileges",
                    "name=apparmor",
                ]
            },
            {"icc": False, "live-restore": True, "userland-proxy": False, "default-ulimits": {"nofile": {"Soft": 64}}},
            OK,
            "none",
        ),
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=userns"]}, {}, FAIL, "userns-remap"),
        ({"SecurityOptions": ["name=rootless", "name=userns"]}, {}, FAIL, "rootless"),
        ({}, {"iptables": False, "ip-masq": False}, FAIL, "iptables=false: nothing keeps networks apart"),
        ({}, {"ip-masq": False}, WARN, "ip-masq=false"),
        ({"IPv4Forwarding": False}, {}, FAIL, "forwards no packets"),
        ({"SecurityOptions": ["name=seccomp,profile=/etc/docker/own.json"]}, {}, WARN, "/etc/docker/own.json"),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, {}, OK, "none"),
        ({"SecurityOptions": ["name=selinux"]}, {}, WARN, "SELinux"),
        ({"DefaultRuntime": "runsc"}, {}, WARN, "run by runsc"),
        ({"SecurityOptions": ["name=userns"], "DefaultRuntime": "runsc"}, {}, FAIL, "userns-remap: it gives"),
    ],
)
def test_settings_of_the_whole_engine(info: dict[str, Any], daemon: dict[str, Any], state: str, words: str) -> None:
    found = engine.settings(info, daemon)
    assert found.state == state
    assert words in found.seen
    assert bool(found.mend) == (state in (WARN, FAIL))


def test_an_engine_that_does_not_answer() -> None:
    found = engine.engine(Reached("none", "", "", wanted="unix:///gone.sock"))
    assert found == fail("DOCKER_HOST=unix:///gone.sock does not answer", "start that engine, or `unset DOCKER_HOST`")


def test_no_engine() -> None:
    assert engine.engine(Reached("none", "", "")) == fail("none answers", "invoke engine.up", fix="engine")
    found = engine.engine(Reached("none", "", "", obstacle="you are not root"))
    assert (found.state, found.fix) == (FAIL, "")
    assert "because you are not root" in found.seen
    assert "install Docker Engine 28 or newer" in found.mend[0]


def test_engines_that_answer() -> None:
    assert engine.engine(Reached("embedded", HOST, "28.5.2+dfsg4")) == ok(f"embedded 28.5.2+dfsg4 at {HOST}")
    assert engine.engine(Reached("host", HOST, "27.5.1")).state == WARN
    assert engine.engine(Reached("host", HOST, "reachable")).state == OK
    far = engine.engine(Reached("host", "ssh://me@there", "reachable", spoken=False))
    assert far.state == FAIL
    assert "ssh -NL" in far.mend[0]


def test_the_image_store() -> None:
    good = {"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    assert engine.store(good, HOST) == ok("containerd (overlayfs)")
    for info in ({}, {"DriverStatus": None}, {"DriverStatus": [["Backing Filesystem", "extfs"]]}):
        found = engine.store(info, HOST)
        assert found.state == FAIL
        assert "containerd-snapshotter" in found.mend[0]


@pytest.mark.parametrize(
    ("version", "state"),
    [("28.0.0", OK), ("28.5.2+dfsg4", OK), ("29.1", OK), ("27.5.1", FAIL), ("26.1.5+dfsg1", FAIL), ("reachable", WARN)],
)
def test_isolated_bridges(version: str, state: str) -> None:
    assert engine.isolation(version).state == state


def test_limits_that_the_kernel_keeps() -> None:
    good = {"CgroupVersion": "2", "MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "SwapLimit": True}
    assert engine.limits(good) == ok("cgroup v2, memory, CPU, processes")
    assert engine.limits({"CgroupVersion": "2"}).state == OK  # an engine that does not tell
    assert engine.limits({**good, "SwapLimit": False}).state == WARN
    found = engine.limits({**good, "CgroupVersion": "1", "MemoryLimit": False, "PidsLimit": False})
    assert (found.state, found.seen) == (FAIL, "cgroup v1: no limits of memory, processes")


def test_the_base_image() -> None:
    assert engine.base("debian:x", "shipyard-base:1", True) == ok("debian:x is shipyard-base:1")
    gone = engine.base("debian:x", "shipyard-base:1", False)
    assert (gone.state, gone.fix, gone.mend) == (WARN, "base", ("invoke base",))
    assert gone.seen.startswith("shipyard-base:1 is gone")
    assert engine.base("debian:x", "", False).seen.startswith("debian:x is not prepared yet")


# --- tools ---


def client(**plugin: str) -> dict[str, Any]:
    return {"Version": "28.5.2", "Plugins": [{"Name": "compose", "Path": "/p/docker-compose", **plugin}]}


def test_plugins() -> None:
    assert tools.plugin(tools.COMPOSE, client(Version="v2.40.3"), "") == ok("v2.40.3 (/p/docker-compose)")
    old = tools.plugin(tools.COMPOSE, client(Version="v2.24.3"), "")
    assert (old.state, old.seen) == (
        FAIL,
        "v2.24.3 (/p/docker-compose) is older than 2.24.4, for the tag !override in compose/*.yaml",
    )
    assert old.mend == ("install docker compose 2.24.4 or newer in place of /p/docker-compose",)
    broken = tools.plugin(tools.COMPOSE, client(Err="failed to fetch metadata: fork/exec /p: exec format error"), "")
    assert (broken.state, "exec format error" in broken.seen) == (FAIL, True)
    assert tools.plugin(tools.COMPOSE, client(Version="dev"), "").state == WARN


def test_what_is_missing_is_unpacked_where_that_can_be() -> None:
    for said in ({}, {"Plugins": None}, {"Plugins": [{"Name": "buildx"}]}):
        found = tools.plugin(tools.COMPOSE, said, "")
        assert found == fail("docker compose is not unpacked yet", "invoke doctor --fix", fix="tools")
        found = tools.plugin(tools.COMPOSE, said, "you are not root")
        assert (found.state, found.fix, found.mend) == (FAIL, "", ("install docker compose",))


def test_the_client_cosign_and_git() -> None:
    assert tools.client({"Version": "28.5.2"}, "/bin/docker") == ok("28.5.2 (/bin/docker)")
    assert tools.client({}, "/bin/docker").state == OK
    assert tools.cosign("/bin/cosign", "  --use-signing-config  whether to").state == OK
    assert tools.cosign("/bin/cosign", "  --tlog-upload").state == FAIL
    assert tools.git("git version 2.39.5") == ok("2.39.5")
    assert tools.git("").state == FAIL


# --- machine ---


def test_disks() -> None:
    roomy = Place("/", "checkout", 50 * GB, 100 * GB, 10**6)
    assert machine.disk([roomy]) == ok("50.0 GB free at / (checkout)")
    full = machine.disk([roomy, Place("/data", "engine", 1 * GB, 100 * GB)])
    assert (full.state, full.seen) == (
        FAIL,
        "/data (engine) has 1.0 GB of 100.0 GB left, and 2.0 GB may be needed",
    )
    assert machine.disk([Place("/", "checkout", 50 * GB, 100 * GB, files=10)]).state == FAIL
    assert machine.disk([Place("/tmp", "temporary files", 1 * GB, 1 * GB, least=10**9)]).state == OK


def test_memory() -> None:
    assert machine.memory(8 * GB, 4 * GB, 6 * GB) == ok("4.0 GB of 8.0 GB available")
    assert machine.memory(4 * GB, 2 * GB, 6 * GB).state == WARN
    assert machine.memory(8 * GB, GB // 4, 6 * GB).state == FAIL


def test_what_the_limits_of_production_add_up_to() -> None:
    text = "a:\n    mem_limit: 256m\n    mem_limit: 4g # large\n    mem_limit: ${OLLAMA_MEMORY:-16g}\n    memswap_limit: 1g\n"
    assert machine.limits(text, {}) == 256 * 1024**2 + 4 * 1024**3
    assert machine.limits("    mem_limit: ${X:-1g}\n", {}) == 1024**3
    assert machine.limits("    mem_limit: ${X:-1g}\n", {"X": "2G"}) == 2 * 1024**3
    assert machine.limits("    mem_limit: ${X:-1g}\n", {"X": "much"}) == 0
    real = (ROOT / "compose/compose.yaml").read_text()
    assert machine.limits(real, {}) == (1024 + 512 + 8 * 1024 + 2048 + 256 + 512) * 1024**2


def test_clocks() -> None:
    now = 1_800_000_000.0
    assert machine.clock(now, None, 0) == ok("2027-01-15 08:00:00 UTC")
    assert machine.clock(now, now - 1, int(now)).seen.endswith("; the engine agrees")
    assert "differs by 301 s" in machine.clock(now, now + 301, 0).seen
    future = machine.clock(now, None, int(now) + 3600)
    assert (future.state, "of the future (2027-01-15 09:00:00 UTC)" in future.seen) == (FAIL, True)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Kernel("6.12.1", 6, True, True), OK),
        (Kernel("6.8.0-generic", 4, True, True), WARN),
        (Kernel("5.10.0", 0, True, True), FAIL),
        (Kernel("6.12.1", 6, False, True), FAIL),
        (Kernel("6.12.1", 6, None, True), OK),
        (Kernel("6.12.1", 6, True, False), FAIL),
        (Kernel("6.12.1-linuxkit", None, None, True), OK),
        (Kernel("5.4.0", None, None, True), FAIL),
    ],
)
def test_kernels(found: Kernel, state: str) -> None:
    assert machine.kernel(found).state == state


def test_a_release_at_work() -> None:
    assert machine.lease("", None).state == OK
    assert machine.lease("invoke release, pid 3", True).state == WARN
    assert machine.lease("invoke release, pid 3", None).state == WARN
    assert machine.lease("invoke release, pid 3", False).state == OK


def test_package_locks() -> None:
    assert machine.locks([], 12) == ok("12 Debian packages are locked")
    assert machine.locks([], 0).state == SKIP
    found = machine.locks(["docker/api/debian.lock is missing or empty"], 12)
    assert (found.state, found.mend[0].split(",")[0]) == (FAIL, "invoke lock")


# --- network ---


def test_the_ports_of_the_real_compose_files() -> None:
    def of(name: str, **settings: str) -> list[Wanted | str]:
        return list(network.published((ROOT / "compose" / name).read_text(), settings, always=False))

    assert of("compose.yaml") == [Wanted("127.0.0.1", 8001, "LLM_CALL_API_PORT", False)]
    moved = of("compose.yaml", LLM_CALL_API_PORT="9001", LLM_CALL_API_ADDRESS="0.0.0.0")
    assert moved == [Wanted("0.0.0.0", 9001, "LLM_CALL_API_PORT", False)]
    assert of("compose.yaml", LLM_CALL_API_PORT="many") == ['.env: LLM_CALL_API_PORT: "many" is not a port']
    assert {each.port for each in of("debug-ports.yaml") if isinstance(each, Wanted)} >= {3010, 6379, 5678}
    assert [each.port for each in of("monitoring.yaml") if isinstance(each, Wanted)] == [9090]


def test_ports() -> None:
    api, redis = Wanted("127.0.0.1", 8001, "LLM_CALL_API_PORT", True), Wanted("127.0.0.1", 6379, "REDIS_PORT", False)
    assert network.ports([api, redis], {}, [], []) == ok("8001, 6379 free")
    assert network.ports([api, redis], {}, [8001], []) == ok("6379 free; 8001 of this checkout's own stack")
    assert network.ports([api, redis], {redis: "process 3 (redis)"}, [], []).state == WARN
    found = network.ports([api, redis], {api: "process 7 (x)"}, [], [])
    assert (found.state, found.seen) == (FAIL, "127.0.0.1:8001 (LLM_CALL_API_PORT) is in use by process 7 (x)")
    assert found.mend == ("stop that, or set LLM_CALL_API_PORT in .env",)
    held = network.ports([api, redis], {}, [], [], {api: "process 9 (/usr/bin/docker-proxy -proto tcp)"})
    assert (held.state, "cannot be told whose 127.0.0.1:8001 (LLM_CALL_API_PORT)" in held.seen) == (SKIP, True)
    assert network.ports([api, redis], {redis: "process 3 (x)"}, [], [], {api: "docker-proxy"}).state == WARN
    assert network.forwards("process 9 (/usr/bin/docker-proxy -proto tcp)")
    assert network.forwards("a process that cannot be seen from here")
    assert not network.forwards("process 7 (nginx)")
    assert network.ports([redis], {}, [], ['.env: LLM_CALL_API_PORT: "x" is not a port']).state == FAIL


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (Registry("127.0.0.1:5000", "running"), OK, "answers"),
        (Registry("127.0.0.1:5000", "stopped"), OK, "a release starts it"),
        (Registry("127.0.0.1:5000", "stopped", taken="process 3 (x)"), FAIL, "in use by process 3"),
        (Registry("127.0.0.1:5000", "silent"), FAIL, "does not answer"),
        (Registry("hub.example", "other"), OK, "answers"),
        (Registry("hub.example", "other", problem="wants a login"), FAIL, "wants a login"),
        (Registry("hub.example", "other", drift=-400), FAIL, "differs from ours by -400 s"),
    ],
)
def test_registries(found: Registry, state: str, words: str) -> None:
    judged = network.registry(found)
    assert (judged.state, words in judged.seen) == (state, True)


NOW = 1_800_000_000.0
OURS = Authority("corporate.crt", NOW + 10**8, bundled=True)
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def test_certificates_that_are_as_they_should_be() -> None:
    assert network.trust(Trust(BUNDLE, 140), NOW) == ok(f"140 certificates in {BUNDLE}")
    via = network.trust(Trust(BUNDLE, 140, proxies=("proxy:3128",)), NOW)
    assert via == ok(f"140 certificates in {BUNDLE}, by way of proxy:3128")
    assert network.trust(Trust(BUNDLE, 140, (OURS,), egress=BUNDLE), NOW).state == OK


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (Trust("", 0), FAIL, "no CA certificates"),
        (Trust(BUNDLE, 140, named=("SSL_CERT_FILE=/gone",)), FAIL, "SSL_CERT_FILE=/gone is not there"),
        (Trust(BUNDLE, 140, (OURS,)), WARN, "may intercept TLS"),
        (Trust(BUNDLE, 140, egress="x.pem", egress_problem="is no absolute path"), FAIL, "x.pem: is no absolute path"),
        (Trust(BUNDLE, 140, (Authority("a.crt", NOW - 1, True),), egress=BUNDLE), WARN, "has ended"),
        (Trust(BUNDLE, 140, (Authority("a.crt", NOW + 86400, True),), egress=BUNDLE), WARN, "within two weeks"),
        (Trust(BUNDLE, 140, (Authority("a.crt", NOW + 10**8, False),), egress=BUNDLE), WARN, f"{BUNDLE} lacks a.crt"),
    ],
)
def test_certificates(found: Trust, state: str, words: str) -> None:
    judged = network.trust(found, NOW)
    assert (judged.state, words in judged.seen) == (state, True), judged


def test_a_proxy_is_shown_without_its_login() -> None:
    assert network.proxy_host("http://me:secret@proxy.example:3128/") == "proxy.example:3128"
    assert network.proxy_host("me:secret@proxy.example") == "proxy.example"
    assert network.proxy_host("http://me:secret@proxy.example:many") == "proxy.example"


def test_ipv6() -> None:
    assert network.ipv6(True, "", []).state == OK
    assert network.ipv6(False, "127.0.0.1", []) == ok("none, and the stack needs none")
    assert network.ipv6(False, "::1", []).state == FAIL
    assert "[::1]:8001" in network.ipv6(True, "", ["[::1]:8001"]).seen
    assert network.ipv6(True, "", ["[::1]:8001"]).state == WARN


# --- secrets ---


def test_secrets() -> None:
    assert secrets.secrets([], [], [], False) == ok("complete")
    assert secrets.secrets([], ["a", "b"], [], False) == ok("complete; 2 providers' keys are not given")
    assert secrets.secrets([], [], ["client: the earlier key still works"], False).state == WARN
    faults = [Fault("secrets/x", "is open", "chmod go-w secrets/x"), Fault("secrets/y", "is odd")]
    found = secrets.secrets(faults, [], [], True)
    assert (found.state, found.seen, found.fix) == (FAIL, "secrets/x: is open; secrets/y: is odd", "secrets")
    assert found.mend == ("chmod go-w secrets/x", "invoke secrets.check")


def test_the_signing_key() -> None:
    assert secrets.signing([], there=False, public=True, mendable=False).seen.startswith("cosign.pub verifies")
    assert secrets.signing([], there=False, public=False, mendable=False).state == SKIP
    assert secrets.signing([], there=True, public=True, mendable=False).state == OK
    found = secrets.signing([Fault("k", "is open", "chmod 600 k")], there=True, public=True, mendable=True)
    assert (found.state, found.mend, found.fix) == (FAIL, ("chmod 600 k",), "secrets")


def test_the_published_port() -> None:
    assert network.reached([]).state == SKIP
    good = {
        "port": "127.0.0.1:8001",
        "answers": True,
        "seen": "answers in 2 ms, with 1 instance of the API",
        "mend": "",
    }
    assert network.reached([good]) == Finding(OK, "127.0.0.1:8001 answers in 2 ms, with 1 instance of the API")
    dead = {"port": "127.0.0.1:8001", "answers": False, "seen": "no answer within 3 s", "mend": "docker restart x"}
    found = network.reached([good, dead])
    assert (found.state, found.mend) == (FAIL, ("docker restart x",))
    assert "127.0.0.1:8001: no answer within 3 s, while the balancer runs" in found.seen


@pytest.mark.parametrize(
    ("limit", "forwards", "kind", "state", "words"),
    [
        (1048576, "docker-proxy", "embedded", OK, "1048576"),
        (20000, "kernel", "embedded", OK, "20000, ports forwarded by the kernel"),
        (20000, "docker-proxy", "embedded", WARN, "enough for 3333 of the 12000 connections"),
        (20000, "docker-proxy", "host", WARN, "enough for 3333 of the 12000 connections"),
        (4096, "kernel", "embedded", FAIL, "a container of the stack asks for 16384"),
        (None, "", "host", SKIP, "cannot be seen from here"),
    ],
)
def test_open_files(limit: int | None, forwards: str, kind: str, state: str, words: str) -> None:
    found = open_files.judge(limit, forwards, kind)
    assert found.state == state
    assert words in found.seen
    assert bool(found.mend) == (state in (WARN, FAIL))


def test_the_figures_are_those_of_the_balancer_and_of_compose() -> None:
    balancer = (ROOT / "docker/balancer/haproxy.cfg").read_text()
    assert f"    maxconn {open_files.CONNECTIONS}\n" in balancer
    assert f"ulimit-n {open_files.CONTAINER} " in balancer
    assert (
        f"nofile: {{ soft: {open_files.CONTAINER}, hard: {open_files.CONTAINER} }}"
        in (ROOT / "compose/hardened.yaml").read_text()
    )
