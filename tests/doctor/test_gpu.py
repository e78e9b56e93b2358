"""The way of a GPU into a container, on machines that have none: the kernel's and the driver's files are stood in for, in a
mount namespace of the test's own. The engine, its CDI devices, the container and the answer of Ollama's API are real.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import shipyard
from shipyard.engine import Engine
from tests.doctor.conftest import Machine
from tests.support.service import wait_until

#: What a machine with a driver of this version has; the folders that it is put into are this process' own copies.
SCENE = """
set -e
ip link set lo up
mount -t tmpfs tmpfs "$1/scene"
for name in dev etc; do
    mkdir -p "$1/scene/$name.up" "$1/scene/$name.work"
    mount -t overlay overlay -o "lowerdir=/$name,upperdir=$1/scene/$name.up,workdir=$1/scene/$name.work" "/$name"
done
mount -t tmpfs tmpfs /proc/driver
mkdir /proc/driver/nvidia
echo 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024' > /proc/driver/nvidia/version
: > /dev/nvidiactl
echo ready
exec sleep infinity
"""
CARD = "echo 'NVIDIA A10, 23028 MiB'"
LISTED = "echo 'GPU 0: NVIDIA A10 (UUID: GPU-f15ae561-21b1-6003-c768-861fc285203b)'"
LOST = "echo 'Failed to initialize NVML: Unknown Error'; exit 255"
MISMATCH = "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
#: Ollama's `GET /api/ps`, from a file that a test changes, by what the base image has: Perl.
OLLAMA = r"""
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalPort => 11434, Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) {
    while (<$client>) { last if /^\r?$/ }
    open my $file, "<", "/given/ps.json"; local $/; my $body = <$file>;
    print $client "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
    close $client;
}
"""


class Scene:
    """A machine with a GPU, as far as files can tell; ``prefix`` starts a program on it."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self.machine, self.prefix = machine, ("nsenter", f"--target={pid}", "--mount", "--net")
        self.given = machine.home.parent / "given"
        self.given.mkdir()
        self.smi(CARD)

    def smi(self, body: str, place: Path | None = None) -> Path:
        """Put nvidia-smi in its place: on PATH, or where a container has it from."""
        place = place or self.machine.programs / "nvidia-smi"
        place.write_text(f"#!/bin/sh\n{body}\n")
        place.chmod(0o755)
        return place

    def specify(self, driver: str = "550.54.15") -> None:
        """A CDI specification as `nvidia-ctk cdi generate` writes it: devices, the driver's programs and libraries."""
        inside = self.smi(LISTED, self.given / "nvidia-smi")
        mounts = [
            {"hostPath": str(inside), "containerPath": "/usr/bin/nvidia-smi", "options": ["ro", "nosuid", "bind"]}
        ]
        library = f"/usr/lib/libcuda.so.{driver}"
        mounts.append({"hostPath": "/etc/hostname", "containerPath": library, "options": ["ro", "nosuid", "bind"]})
        device = {"name": "all", "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}}
        document = {
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": [device],
            "containerEdits": {"mounts": mounts},
        }
        place = self.given / "nvidia.json"
        place.write_text(json.dumps(document))
        self.run("sh", "-c", f"mkdir -p /etc/cdi && cp {place} /etc/cdi/nvidia.json")

    def run(self, *argv: str) -> str:
        """A program on this machine."""
        done = subprocess.run([*self.prefix, *argv], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout


@pytest.fixture
def scene(machine: Machine) -> Iterator[Scene]:
    folder = machine.home.parent
    (folder / "scene").mkdir()
    argv = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", SCENE, "scene", str(folder)]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == b"ready\n"
        yield Scene(machine, holder.pid)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_no_toolkit_and_no_specification(scene: Scene) -> None:
    found = scene.machine.examined(status=24, prefix=scene.prefix)
    assert found.failed() == {"GPU toolkit"}
    assert found.state("GPU device") == "ok"
    assert found.seen("GPU driver") == "driver 550.54.15: NVIDIA A10, 23028 MiB"
    assert "/etc/cdi or /var/run/cdi" in found.seen("GPU toolkit")
    assert "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml" in found.mend("GPU toolkit")
    assert found.seen("GPU engine") == "needs GPU toolkit"
    assert found.state("GPU container") == found.state("GPU model") == "skip"


def test_a_driver_whose_libraries_were_replaced(scene: Scene) -> None:
    scene.smi(MISMATCH)
    found = scene.machine.examined(status=24, prefix=scene.prefix)
    assert found.failed() == {"GPU driver"}
    assert "Driver/library version mismatch" in found.seen("GPU driver")
    assert "rmmod nvidia_uvm" in found.mend("GPU driver")


def test_a_specification_of_an_earlier_driver(scene: Scene) -> None:
    scene.specify("535.104.05")
    found = scene.machine.examined(status=24, prefix=scene.prefix)
    assert found.seen("GPU toolkit") == "/etc/cdi/nvidia.json is of driver 535.104.05, loaded is 550.54.15"


def test_an_engine_that_was_not_told(scene: Scene) -> None:
    scene.specify()
    found = scene.machine.examined(status=24, prefix=scene.prefix)
    assert found.failed() == {"GPU engine"}
    assert "nvidia-ctk runtime configure" in found.mend("GPU engine")
    refused = scene.machine.invoke("hybrid", "--gpu", prefix=scene.prefix)
    assert refused.returncode == 14
    assert "the engine cannot give it to containers" in refused.stderr


@pytest.fixture
def given(scene: Scene) -> Iterator[Scene]:
    """With an engine that has read the specification at its start, and the base image in it."""
    machine, shared = scene.machine, shipyard.engine.find()
    scene.specify()
    del machine.variables["DOCKER_HOST"]
    known = json.loads((machine.home / "base.json").read_text())
    own = f"unix://{machine.home}/run/docker.sock"
    (base,) = {each["reference"] for key, each in known.items() if key.startswith(shared.host)}
    known = {key.replace(shared.host, own): each for key, each in known.items()}
    (machine.home / "base.json").write_text(json.dumps(known))
    (machine.home / "data").mkdir()
    assert machine.invoke("engine.up", prefix=scene.prefix).returncode == 0
    try:
        _copy(shared, Engine(own, shared.docker, "embedded", machine.home / "client"), base)
        yield scene
    finally:
        machine.invoke("engine.down", prefix=scene.prefix)


def _copy(source: Engine, target: Engine, image: str) -> None:
    with subprocess.Popen([source.docker, "save", image], env=source.environment(), stdout=subprocess.PIPE) as saving:
        load = [target.docker, "load", "--quiet"]
        subprocess.run(load, env=target.environment(), stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True)


def test_from_the_engine_to_the_model(given: Scene) -> None:
    machine = given.machine
    found = machine.examined(status=0, prefix=given.prefix)
    assert found.seen("GPU engine").startswith("the engine has nvidia.com/gpu=all by CDI alone")
    assert found.seen("GPU container").startswith("a container of shipyard-base:")
    assert found.seen("GPU container").endswith(" sees GPU 0: NVIDIA A10")
    assert found.seen("GPU model").startswith("no Ollama of this checkout runs")
    _ollama(given, size_vram=0)
    cpu = machine.examined(status=24, prefix=given.prefix)
    assert (cpu.failed(), cpu.seen("GPU model")) == ({"GPU model"}, "tiny:1b runs on the CPU")
    assert cpu.seen("GPU container") == "container ollama sees GPU 0: NVIDIA A10"
    _loaded(given, size_vram=1000)
    assert machine.examined(status=0, prefix=given.prefix).seen("GPU model") == "tiny:1b is on the GPU"
    given.smi(LOST, given.given / "nvidia-smi")
    lost = machine.examined(status=24, prefix=given.prefix)
    assert lost.failed() == {"GPU container"}
    assert lost.seen("GPU container").startswith("container ollama has lost its GPU")
    assert "docker restart ollama" in lost.mend("GPU container")
    assert lost.state("GPU model") == "skip"


def _loaded(scene: Scene, *, size_vram: int) -> None:
    document = {"models": [{"name": "tiny:1b", "size": 1000, "size_vram": size_vram}]}
    (scene.given / "ps.json").write_text(json.dumps(document))


def _ollama(scene: Scene, *, size_vram: int) -> None:
    """A container that says what Ollama says, with the labels that Compose gives to its service."""
    _loaded(scene, size_vram=size_vram)
    machine = scene.machine
    labels = {"project": shipyard.dotenv.project_name(machine.root), "service": "ollama"}
    words = [word for name, value in labels.items() for word in ("--label", f"com.docker.compose.{name}={value}")]
    base = next(iter(json.loads((machine.home / "base.json").read_text()).values()))["reference"]
    engine = Engine(f"unix://{machine.home}/run/docker.sock", shipyard.engine.find().docker, "embedded")
    argv = [engine.docker, "run", "--detach", "--pull=never", "--init", "--name=ollama", "--device=nvidia.com/gpu=all"]
    argv += [*words, f"--volume={scene.given}:/given:ro", base, "perl", "-e", OLLAMA]
    subprocess.run(argv, env=engine.environment(), check=True, stdout=subprocess.DEVNULL)
    inspect = [
        engine.docker,
        "inspect",
        "--format",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        "ollama",
    ]
    address = subprocess.run(
        inspect, env=engine.environment(), check=True, capture_output=True, text=True
    ).stdout.strip()
    asked = ["bash", "-c", f"exec 3<>/dev/tcp/{address}/11434"]
    wait_until(
        lambda: subprocess.run([*scene.prefix, *asked], check=False, capture_output=True).returncode == 0, "Ollama", 20
    )
