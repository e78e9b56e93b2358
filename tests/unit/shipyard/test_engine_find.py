"""Which engine is chosen, and what is said when there is none. Who answers is set by each test."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from shipyard.engine import Engine, Status, api, embedded, files, packages
from shipyard.engine.types import home
from shipyard.errors import EngineMissing

find = import_module("shipyard.engine.find")  # the package gives its function of the same name first

DEFAULT = "unix:///var/run/docker.sock"
REMOTE = "tcp://10.0.0.5:2375"


class Machine:
    """The engines that answer, and what the toolkit did to this machine."""

    def __init__(self) -> None:
        self.answering: set[str] = set()
        self.obstacle = ""
        self.docker: str | None = "/usr/bin/docker"
        self.plugins = {"docker-buildx", "docker-compose"}
        self.did: list[str] = []


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine()

    @contextmanager
    def lock(what: str) -> Iterator[None]:
        fake.did.append(f"lock: {what}")
        yield
        fake.did.append("unlock")

    def up() -> None:
        fake.did.append("embedded.up")
        fake.answering.add(embedded.host())

    def down() -> bool:
        fake.did.append("embedded.down")
        running = embedded.host() in fake.answering
        fake.answering.discard(embedded.host())
        return running

    monkeypatch.setattr(find, "_answers", lambda host: host in fake.answering)
    monkeypatch.setattr(api, "version", lambda host, timeout=0: "28.5.2" if host in fake.answering else None)
    monkeypatch.setattr(find, "lock", lock)
    monkeypatch.setattr(find, "_plugin", lambda name: name in fake.plugins)
    monkeypatch.setattr(embedded, "up", up)
    monkeypatch.setattr(embedded, "down", down)
    monkeypatch.setattr(packages, "obstacle", lambda: fake.obstacle)
    monkeypatch.setattr(packages, "ensure", lambda: fake.did.append("packages.ensure"))
    monkeypatch.setattr(shutil, "which", lambda name: fake.docker)
    return fake


def context(folder: Path, name: str, host: str, *, current: bool = True) -> None:
    """What ``docker context create`` and ``docker context use`` leave behind."""
    meta = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    if current:
        (folder / "config.json").write_text(json.dumps({"currentContext": name}))


@pytest.fixture
def config() -> Path:
    """The user's own DOCKER_CONFIG."""
    folder = Path.home() / ".docker"
    folder.mkdir(parents=True)
    return folder


# --- the choice ---


def test_docker_host_is_an_order(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answering = {REMOTE, DEFAULT, embedded.host()}
    monkeypatch.setenv("DOCKER_HOST", REMOTE)
    assert find.find() == Engine(REMOTE, "/usr/bin/docker", "host")


def test_a_docker_host_that_does_not_answer_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answering = {DEFAULT, embedded.host()}
    monkeypatch.setenv("DOCKER_HOST", REMOTE)
    for use in (find.find, find.up):
        with pytest.raises(EngineMissing) as raised:
            use()
        assert str(raised.value) == (
            f"DOCKER_HOST={REMOTE} does not answer; start that engine, or unset DOCKER_HOST to use another one"
        )
    assert machine.did == []


def test_the_current_context_comes_before_the_default_socket(machine: Machine, config: Path) -> None:
    context(config, "desk", "unix:///desk.sock")
    machine.answering = {"unix:///desk.sock", DEFAULT}
    assert find.find().host == "unix:///desk.sock"
    machine.answering = {DEFAULT}
    assert find.find().host == DEFAULT


def test_a_context_named_by_the_environment(
    machine: Machine, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context(config, "desk", "unix:///desk.sock")
    context(config, "far", REMOTE, current=False)
    machine.answering = {"unix:///desk.sock", REMOTE}
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    assert find.find().host == REMOTE
    context(tmp_path / "other", "far", "unix:///other.sock")
    machine.answering.add("unix:///other.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "other"))
    assert find.find().host == "unix:///other.sock"


@pytest.mark.parametrize("text", ["", "{}", '{"currentContext": "default"}', '{"currentContext": "gone"}', "{", "[]"])
def test_a_configuration_that_names_no_other_context(machine: Machine, config: Path, text: str) -> None:
    (config / "config.json").write_text(text)
    machine.answering = {DEFAULT}
    assert find.find().host == DEFAULT


def test_the_default_socket_comes_before_a_running_embedded_engine(machine: Machine) -> None:
    machine.answering = {DEFAULT, embedded.host()}
    assert find.find() == Engine(DEFAULT, "/usr/bin/docker", "host")


def test_a_running_embedded_engine_is_used(machine: Machine) -> None:
    machine.answering = {embedded.host()}
    found = find.find()
    tools = packages.folder() / "bin"
    assert found == Engine(
        f"unix://{home()}/run/docker.sock", str(tools / "docker"), "embedded", home() / "client", tools
    )
    assert machine.did == []


def test_docker_host_may_name_the_embedded_engine(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answering = {embedded.host()}
    monkeypatch.setenv("DOCKER_HOST", embedded.host())
    assert find.find() == embedded.describe()


def test_the_embedded_engine_is_started_when_there_is_no_other(machine: Machine) -> None:
    assert find.find() == embedded.describe()
    assert machine.did == ["lock: engine.up", "embedded.up", "unlock"]
    find.up()
    assert machine.did == ["lock: engine.up", "embedded.up", "unlock"], "a second start does nothing"


def test_nothing_to_use_and_nothing_to_start(machine: Machine) -> None:
    machine.obstacle = "you are not root"
    with pytest.raises(EngineMissing) as raised:
        find.find()
    assert str(raised.value) == (
        "no Docker engine is reachable, and none can be run here because you are not root.\n"
        "Install Docker Engine or Docker Desktop (version 28 or newer, with buildx and Compose), start it, and try again;\n"
        "or point DOCKER_HOST at an engine; or, on Debian or Ubuntu, run this as root to get an embedded one."
    )
    assert machine.did == []


# --- looking ---


def test_a_look_starts_unpacks_and_writes_nothing(machine: Machine) -> None:
    assert find.look(embedded.host()) == embedded.describe()
    assert find.look(REMOTE) == Engine(REMOTE, "/usr/bin/docker", "host")
    machine.plugins = set()
    assert find.look(REMOTE) == Engine(REMOTE, "/usr/bin/docker", "host"), "what is missing may be told, not unpacked"
    packages.folder().mkdir(parents=True)
    assert find.look(REMOTE) == Engine(REMOTE, "/usr/bin/docker", "host", home() / "client-of-host")
    machine.docker = None
    assert find.look(REMOTE).docker == str(packages.binaries() / "docker")
    assert machine.did == []
    assert list(home().iterdir()) == [packages.folder()]


# --- stopping ---


def test_only_the_embedded_engine_is_stopped(machine: Machine) -> None:
    machine.answering = {DEFAULT}
    assert find.down() is False
    assert machine.did == [], "nothing of ours was ever on this machine, so nothing is made to look for it"
    home().mkdir()
    machine.answering = {DEFAULT, embedded.host()}
    assert find.down() is True
    assert find.down() is False
    assert machine.did == ["lock: engine.down", "embedded.down", "unlock"] * 2
    assert machine.answering == {DEFAULT}


# --- status ---


def test_status_of_each_kind(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "pid", lambda: 4242)
    monkeypatch.setattr(files, "most", lambda number: {4242: 20000, 7: 1024}[number])
    forwarders: list[int] = []
    monkeypatch.setattr(files, "forwarders", lambda other_than: iter(forwarders))
    assert find.status() == Status("none", "", "", "`invoke engine.up` starts an embedded one")
    machine.answering = {embedded.host()}
    detail = f"pid 4242, data in {home()}, log {home()}/dockerd.log"
    assert find.status() == Status("embedded", embedded.host(), "28.5.2", detail, 20000)
    home().mkdir(parents=True, exist_ok=True)
    for text, by in (('{"userland-proxy": false}', "kernel"), ('{"features": {}}', "docker-proxy")):
        (home() / "daemon.json").write_text(text)
        assert find.status().forwards == by
    machine.answering = {DEFAULT}
    detail = "found; the toolkit neither starts nor stops it"
    assert find.status() == Status("host", DEFAULT, "28.5.2", detail)
    forwarders.append(7)
    assert find.status() == Status("host", DEFAULT, "28.5.2", detail, 1024, "docker-proxy")
    assert machine.did == []


def test_status_where_none_can_run(machine: Machine) -> None:
    machine.obstacle = "this is Darwin, not Linux"
    found = find.status()
    assert (found.kind, found.detail.splitlines()[0]) == (
        "none",
        "no Docker engine is reachable, and none can be run here because this is Darwin, not Linux.",
    )


def test_status_says_what_a_build_would_say_about_docker_host(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.answering = {embedded.host()}
    monkeypatch.setenv("DOCKER_HOST", REMOTE)
    found = find.status()
    assert found.kind == "none"
    assert f"DOCKER_HOST={REMOTE} does not answer" in found.detail


# --- a host engine without all tools ---


def test_missing_plugins_are_unpacked_once(machine: Machine, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config / "config.json").write_text('{"auths": {"ghcr.io": {}}}')
    (config / "contexts").mkdir()
    machine.answering = {DEFAULT}
    machine.plugins = {"docker-buildx"}
    expected = Engine(DEFAULT, "/usr/bin/docker", "host", home() / "client-of-host")
    assert find.find() == expected
    assert machine.did == ["lock: unpacking plugins", "packages.ensure", "unlock"]
    assert capsys.readouterr().err == (
        f"==> the engine at {DEFAULT} lacks docker-compose: taking it from Debian packages\n"
    )
    private = home() / "client-of-host"
    plugins = str(packages.folder() / "root/usr/libexec/docker/cli-plugins")
    assert json.loads((private / "config.json").read_text()) == {
        "auths": {"ghcr.io": {}},
        "cliPluginsExtraDirs": [plugins],
    }
    assert (private / "config.json").stat().st_mode & 0o777 == 0o600, "it holds the user's logins"
    assert (private / "contexts").resolve() == (config / "contexts").resolve()
    packages.folder().mkdir(parents=True)
    machine.did.clear()
    assert find.find() == expected
    assert machine.did == []


def test_a_missing_client_is_taken_from_the_packages(machine: Machine) -> None:
    machine.answering = {DEFAULT}
    machine.docker = None
    assert find.find() == Engine(DEFAULT, str(packages.folder() / "bin/docker"), "host", home() / "client-of-host")


def test_missing_tools_that_cannot_be_unpacked(machine: Machine) -> None:
    machine.answering = {DEFAULT}
    machine.docker, machine.plugins = None, set()
    machine.obstacle = "you are not root"
    with pytest.raises(EngineMissing) as raised:
        find.find()
    assert str(raised.value) == (
        f"the engine at {DEFAULT} answers, but docker, docker-buildx, docker-compose is missing "
        "and cannot be unpacked (you are not root); install it"
    )
    assert machine.did == []


# --- what an engine tells others ---


def test_the_variables_of_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    plain = Engine(DEFAULT, "docker", "host")
    assert plain.variables() == {"DOCKER_HOST": DEFAULT}
    whole = Engine(DEFAULT, "docker", "embedded", Path("/a b/client"), Path("/a b/bin"))
    assert whole.exports() == [
        f"export DOCKER_HOST={DEFAULT}",
        "export DOCKER_CONFIG='/a b/client'",
        "export PATH='/a b/bin:/usr/bin'",
    ]
    assert whole.environment()["HOME"] == str(Path.home())


def test_hosts_that_can_be_asked_without_a_client() -> None:
    hosts = ("unix:///x", "tcp://h:1", "http://h", "ssh://user@h", "npipe:////./pipe/docker", "")
    assert [host for host in hosts if api.speaks(host)] == ["unix:///x", "tcp://h:1", "http://h"]


def test_a_socket_that_is_not_there_is_not_asked(tmp_path: Path) -> None:
    assert api.version(f"unix://{tmp_path}/none.sock") is None


def test_where_the_machine_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == tmp_path / "machine"
    monkeypatch.delenv("SHIPYARD_HOME")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert home() == Path("/var/lib/shipyard")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert home() == tmp_path / "user/.local/share/shipyard"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home() == tmp_path / "data/shipyard"
