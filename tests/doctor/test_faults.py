"""`invoke doctor` on a machine to which one thing was done, for real: what it says, what mends it, what it goes on with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import shipyard
from shipyard.errors import DOCTOR
from tests.doctor.conftest import Machine
from tests.support.own_engine import apart
from tests.support.service import wait_until
from tests.support.stack import served

#: What can be looked at without an engine.
ALONE = {
    "project",
    "docker client",
    "buildx",
    "compose",
    "git",
    "cosign",
    "disk",
    "settings",
    "ports",
    "secrets",
    "package locks",
}
BEHIND_THE_ENGINE = {"image store", "isolated bridges", "resource limits", "base image"}


def test_nothing_is_wrong(machine: Machine) -> None:
    found = machine.examined(status=0)
    assert found.document["healthy"] is True
    assert found.failed() == set()
    assert {found.state(name) for name in ALONE | BEHIND_THE_ENGINE} == {"ok"}
    table = machine.invoke("doctor")
    assert table.returncode == 0
    lines = [line for line in table.stdout.splitlines() if line[:4].strip()]
    assert [line[6 : 6 + len(name)] for line, name in zip(lines, found.checks, strict=True)] == list(found.checks)
    (machine.home / "base.json").unlink()
    again = machine.invoke("doctor")
    assert again.returncode == 0
    assert "-> invoke base" in again.stdout


def test_no_engine(machine: Machine) -> None:
    machine.variables["DOCKER_HOST"] = f"unix://{machine.home}/nobody.sock"
    found = machine.examined(status=24)
    assert found.failed() == {"engine"}
    assert found.seen("engine") == f"DOCKER_HOST=unix://{machine.home}/nobody.sock does not answer"
    assert "unset DOCKER_HOST" in found.mend("engine")
    assert {found.seen(name) for name in BEHIND_THE_ENGINE} == {"needs engine"}
    assert {found.state(name) for name in ALONE} == {"ok"}
    assert "error: 1 fail: engine" in found.stderr


def test_an_engine_that_hangs(machine: Machine) -> None:
    place = machine.home / "hung.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(place))
        hung.listen()
        machine.variables["DOCKER_HOST"] = f"unix://{place}"
        assert machine.examined(status=24).failed() == {"engine"}


def test_an_engine_that_can_be_started_is_only_with_fix(machine: Machine) -> None:
    del machine.variables["DOCKER_HOST"]
    shutil.rmtree(machine.root / "secrets")
    # Without a way out of its namespace the engine cannot disturb another one's bridge, and no base image can be had.
    with apart():
        found = machine.examined(status=24)
        assert found.failed() == {"engine", "secrets"}
        assert found.mend("engine") == "invoke engine.up"
        assert found.checks["engine"]["fixable"]
        assert not (machine.home / "run").exists()
        try:
            mended = machine.examined("--fix", status=0)
            assert mended.failed() == set()
            assert mended.seen("engine").startswith("embedded ")
            assert any(line.startswith("started an engine") for line in mended.document["mended"])
            assert any(line.startswith("made secrets/: ") for line in mended.document["mended"])
            key = (machine.root / "secrets/client_key").read_text().strip()
            assert key not in str(mended.document) + mended.stderr
            assert machine.examined("--fix", status=0).document["mended"] == []
        finally:
            machine.invoke("engine.down")


def only(machine: Machine, *programs: str) -> None:
    """A PATH with these programs and nothing else."""
    for name in programs:
        (machine.programs / name).symlink_to(str(shutil.which(name)))
    machine.variables["PATH"] = str(machine.programs)


def test_nothing_is_unpacked_yet(machine: Machine) -> None:
    next(machine.home.glob("packages-*")).unlink()
    only(machine, "git", "apt-get", "dpkg-deb")
    found = machine.examined(status=24)
    assert found.failed() == {"docker client", "cosign", "registry"}
    assert {found.mend(name) for name in found.failed()} == {"invoke doctor --fix"}
    assert {found.seen("buildx"), found.seen("compose")} == {"needs docker client"}
    assert [path.name for path in machine.home.iterdir()] == ["base.json"], "it starts and unpacks nothing by itself"


def test_nothing_is_there_and_nothing_can_be_unpacked(machine: Machine) -> None:
    next(machine.home.glob("packages-*")).unlink()
    only(machine)
    found = machine.examined(status=24)
    assert found.failed() == {"docker client", "cosign", "registry", "git"}
    assert found.mend("docker client") == "install the docker client"
    assert "no apt-get and dpkg-deb" in found.seen("docker client")
    assert found.seen("secrets") == "needs git"
    done = machine.invoke("secrets.check")
    assert done.returncode == 25
    assert done.stderr.splitlines()[-2:] == ["error: git: program not found; install it", f"    {DOCTOR}"]


def plugin(machine: Machine, name: str, version: str) -> Path:
    """A plugin of the user's own that says which version it is."""
    place = Path(machine.variables["DOCKER_CONFIG"]) / "cli-plugins" / name
    place.parent.mkdir(exist_ok=True)
    document = f'{{"SchemaVersion": "0.1.0", "Vendor": "A test", "Version": "{version}"}}'
    place.write_text(f"#!/bin/sh\necho '{document}'\n")
    place.chmod(0o755)
    return place


def test_plugins_of_the_user_s_own_that_are_too_old(machine: Machine) -> None:
    next(machine.home.glob("packages-*")).unlink()
    (machine.programs / "docker").symlink_to(shipyard.engine.packages.binaries() / "docker")
    old, fresh = plugin(machine, "docker-compose", "v2.20.3"), plugin(machine, "docker-buildx", "v0.17.0")
    found = machine.examined(status=24)
    assert found.seen("compose").startswith(f"v2.20.3 ({old}) is older than 2.24.4")
    assert str(old) in found.mend("compose")
    assert (found.state("buildx"), found.seen("buildx")) == ("ok", f"v0.17.0 ({fresh})")


def test_a_plugin_that_does_not_run(machine: Machine) -> None:
    next(machine.home.glob("packages-*")).unlink()
    (machine.programs / "docker").symlink_to(shipyard.engine.packages.binaries() / "docker")
    broken = plugin(machine, "docker-compose", "v2.40.3")
    plugin(machine, "docker-buildx", "v0.29.1")
    broken.write_text("#!/bin/sh\nexit 1\n")
    found = machine.examined(status=24)
    assert found.seen("compose").startswith(f"{broken} does not run: ")


def test_a_full_disk(machine: Machine) -> None:
    programs = next(machine.home.glob("packages-*")).readlink()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(machine.home)], check=True)
    (machine.home / programs.name).symlink_to(programs)
    with pytest.raises(OSError, match="No space left"), (machine.home / "filling").open("wb", buffering=0) as filling:
        while True:
            filling.write(bytes(65536))
    found = machine.examined(status=24)
    assert found.seen("disk").startswith(f"{machine.home} (toolkit) has 0.0 GB of 0.0 GB left")
    assert "make room" in found.mend("disk")
    assert found.failed() == {"disk"}


def test_ports_that_somebody_else_has(machine: Machine) -> None:
    with (
        socket.create_server(("127.0.0.1", machine.ports["LLM_CALL_API_PORT"])) as one,
        socket.create_server(("127.0.0.1", machine.ports["REDIS_PORT"])) as other,
    ):
        found = machine.examined(status=24)
        assert found.failed() == {"ports"}
        for each in (one, other):
            assert f"127.0.0.1:{each.getsockname()[1]} " in found.seen("ports")
        assert f"is in use by process {os.getpid()}" in found.seen("ports")
        assert "set LLM_CALL_API_PORT in .env" in found.mend("ports")
        one.close()
        # What only debugging needs is no reason to fail.
        assert machine.examined(status=0).state("ports") == "warn"


def test_ports_of_the_checkout_s_own_stack(machine: Machine) -> None:
    engine, port = shipyard.engine.find(), machine.ports["LLM_CALL_API_PORT"]
    (base,) = {each["reference"] for each in json.loads((machine.home / "base.json").read_text()).values()}
    label = f"com.docker.compose.project={shipyard.dotenv.project_name(machine.root)}"
    argv = [
        engine.docker,
        "run",
        "--detach",
        "--rm",
        "--pull=never",
        "--init",
        f"--label={label}",
        f"--publish=127.0.0.1:{port}:1",
    ]
    variables = engine.environment()
    done = subprocess.run([*argv, base, "sleep", "300"], env=variables, check=True, capture_output=True, text=True)
    try:
        found = machine.examined(status=0)
        assert (found.state("ports"), f"{port} of this checkout's own stack" in found.seen("ports")) == ("ok", True)
    finally:
        subprocess.run(
            [engine.docker, "rm", "--force", done.stdout.strip()], env=variables, check=True, capture_output=True
        )


def test_somebody_else_where_localhost_may_lead(machine: Machine) -> None:
    with socket.create_server(("::1", machine.ports["LLM_CALL_API_PORT"]), family=socket.AF_INET6):
        found = machine.examined(status=0)
    assert found.state("IPv6") == "warn"
    assert f"[::1]:{machine.ports['LLM_CALL_API_PORT']}" in found.seen("IPv6")


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("LLM_CALL_API_PORT=many", '.env: LLM_CALL_API_PORT: "many" is not a port'),
        ("LLM_CALL_API_ADDRESS=203.0.113.9", "203.0.113.9 is no address of this machine"),
    ],
)
def test_what_no_stack_can_publish(machine: Machine, line: str, seen: str) -> None:
    with (machine.root / ".env").open("a") as settings:
        settings.write(line + "\n")
    assert machine.examined(status=24).seen("ports") == seen


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ("MODEL_SERVER=bogus", '.env: MODEL_SERVER: "bogus" is no model server'),
        ("OLLAMA_IMAGE='ollama/ollama", ".env: line {last}: the quote before the value of OLLAMA_IMAGE does not end"),
        ("GPU_DEVICE=1,2", '.env: GPU_DEVICE: "1,2" is no name of a GPU'),
    ],
)
def test_settings_that_no_start_accepts(machine: Machine, lines: str, seen: str) -> None:
    with (machine.root / ".env").open("a") as settings:
        settings.write(lines + "\n")
    text = (machine.root / ".env").read_text()
    found = machine.examined(status=24)
    assert found.failed() == {"settings"}
    assert found.seen("settings") == seen.format(last=len(text.splitlines()))
    assert (machine.root / ".env").read_text() == text


def test_two_lines_with_one_port(machine: Machine) -> None:
    with (machine.root / ".env").open("a") as settings:
        settings.write(f"OLLAMA_PORT={machine.ports['LLM_CALL_API_PORT']}\n")
    found = machine.examined(status=24)
    assert found.failed() == {"ports"}
    assert f"OLLAMA_PORT: are both {machine.ports['LLM_CALL_API_PORT']}" in found.seen("ports")
    refused = machine.invoke("host")
    assert refused.returncode == 3
    assert f"OLLAMA_PORT: are both {machine.ports['LLM_CALL_API_PORT']}" in refused.stderr


def test_a_folder_in_the_place_of_settings(machine: Machine) -> None:
    (machine.root / ".env").unlink()
    (machine.root / ".env").mkdir()
    found = machine.examined(status=24)
    assert found.seen("settings") == ".env: is a folder, not a file"
    refused = machine.invoke("prod")
    assert (refused.returncode, ".env: is a folder, not a file; move it away" in refused.stderr) == (3, True)


def test_a_file_in_the_place_of_secrets(machine: Machine) -> None:
    shutil.rmtree(machine.root / "secrets")
    (machine.root / "secrets").write_text("")
    found = machine.examined("--fix", status=24)
    assert found.seen("secrets") == "secrets: is a file, not a folder"
    assert "Errno" not in found.stderr


def test_a_port_that_an_engine_holds_which_does_not_answer(machine: Machine) -> None:
    """It may be this checkout's own stack's: nobody is told to stop it."""
    machine.variables["DOCKER_HOST"] = f"unix://{machine.home}/nobody.sock"
    (machine.programs / "docker-proxy").symlink_to(sys.executable)
    listen = f"import socket,time; s=socket.create_server(('127.0.0.1',{machine.ports['LLM_CALL_API_PORT']})); time.sleep(600)"
    with subprocess.Popen([machine.programs / "docker-proxy", "-c", listen]) as forwarder:
        try:
            wait_until(lambda: served(machine.ports["LLM_CALL_API_PORT"]), "it")
            found = machine.examined(status=24)
        finally:
            forwarder.kill()
    assert found.failed() == {"engine"}
    assert (found.state("ports"), "cannot be told whose" in found.seen("ports")) == ("skip", True)


def test_wrong_modes_of_secrets_are_put_right(machine: Machine) -> None:
    place = machine.root / "secrets"
    (place / "api/api_keys").chmod(0o666)
    (place / "client_key").chmod(0o644)
    (place / "redis").chmod(0o700)
    (place / "somebody_s_notes").write_text("a key of another project\n")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    found = machine.examined(status=24)
    assert found.failed() == {"secrets"}
    for name in ("secrets/api/api_keys", "secrets/client_key", "secrets/redis/", "secrets/somebody_s_notes"):
        assert name in found.seen("secrets")
    assert "chmod go-w secrets/api/api_keys" in found.mend("secrets")
    left = machine.examined("--fix", status=24)
    assert left.seen("secrets") == "secrets/somebody_s_notes: no service reads it", "nothing of anybody's is removed"
    assert (place / "client_key").stat().st_mode & 0o077 == 0
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    (place / "somebody_s_notes").unlink()
    assert machine.examined(status=0).state("secrets") == "ok"


def test_a_signing_key_that_others_may_read(machine: Machine) -> None:
    assert machine.examined(status=0).seen("signing key").startswith("no private key here")
    shipyard.signing_keys.init(shipyard.config.load(machine.root))
    key = machine.root / "secrets/signing/cosign.key"
    key.chmod(0o644)
    found = machine.examined(status=24)
    assert (found.failed(), found.mend("signing key")) == ({"signing key"}, f"chmod 600 {key}")
    mended = machine.examined("--fix", status=0)
    assert mended.state("signing key") == "ok"
    assert "secrets/signing/cosign.key: mode 644 is 600 now" in mended.document["mended"]


def test_a_registry_that_does_not_answer(machine: Machine) -> None:
    machine.variables["SHIPYARD_REGISTRY"] = "127.0.0.1:9/prefix"
    found = machine.examined(status=24)
    assert found.failed() == {"registry"}
    assert found.seen("registry").startswith("127.0.0.1:9: ")


def test_somebody_else_where_the_registry_would_be(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", int(machine.variables["SHIPYARD_REGISTRY_PORT"]))):
        found = machine.examined(status=24)
    assert f"is in use by process {os.getpid()}" in found.seen("registry")
    assert "SHIPYARD_REGISTRY_PORT" in found.mend("registry")


def test_a_commit_of_the_future(machine: Machine) -> None:
    later = {"GIT_COMMITTER_DATE": "2099-01-01T00:00:00Z", "GIT_AUTHOR_DATE": "2099-01-01T00:00:00Z"}
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", "init", "--quiet"], cwd=machine.root, check=True)
    subprocess.run(
        [*git, "commit", "--quiet", "--allow-empty", "-m", "x"],
        cwd=machine.root,
        env={**os.environ, **later},
        check=True,
    )
    found = machine.examined(status=24)
    assert found.failed() == {"clock"}
    assert "of the future (2099-01-01 00:00:00 UTC)" in found.seen("clock")


def test_certificates_that_are_not_there(machine: Machine) -> None:
    machine.variables["SSL_CERT_FILE"] = "/nowhere/ca.pem"
    with (machine.root / ".env").open("a") as settings:
        settings.write("EGRESS_CA_BUNDLE=certificates.pem\n")
    found = machine.examined(status=24)
    assert "SSL_CERT_FILE=/nowhere/ca.pem is not there" in found.seen("certificates")
    assert "EGRESS_CA_BUNDLE=certificates.pem: is no absolute path" in found.seen("certificates")
    assert "unset SSL_CERT_FILE" in found.mend("certificates")


def test_faults_of_the_project_s_own_files(machine: Machine) -> None:
    (machine.root / "VERSION").write_text("one\n")
    (machine.root / "docker/api/debian.lock").unlink()
    found = machine.examined(status=24)
    assert found.failed() == {"project"}
    assert {found.seen(name) for name in ("secrets", "base image", "package locks")} == {"needs project"}
    assert {found.state(name) for name in ("engine", "compose", "ports")} == {"ok"}
    (machine.root / "VERSION").write_text("0.1.0\n")
    found = machine.examined(status=24)
    assert (found.failed(), "docker/api/debian.lock is missing" in found.seen("package locks")) == (
        {"package locks"},
        True,
    )


def test_what_other_verbs_miss_leads_here(machine: Machine) -> None:
    machine.variables["DOCKER_HOST"] = f"unix://{machine.home}/nobody.sock"
    for words in (("build",), ("status",), ("prod",), ("lock",)):
        done = machine.invoke(*words)
        assert done.returncode == 5, words
        assert done.stderr.splitlines()[-1] == f"    {DOCTOR}", words


def test_no_gpu_is_no_fault(machine: Machine) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    found = machine.examined(status=0)
    names = [name for name in found.checks if name.startswith("GPU ")]
    assert len(names) == 6
    assert {(found.state(name), found.seen(name)) for name in names} == {("skip", "no NVIDIA GPU on this machine")}
