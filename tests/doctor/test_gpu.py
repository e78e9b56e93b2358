"""The way of a GPU into a container, on machines that have none: the kernel's and the driver's files are stood in for, in a
mount namespace of the test's own. The engine, its CDI devices, the containers that Compose gives them to, and the answer of
Ollama's API are real.
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
#: Answers every request at a port with what a file says then, by what the base image has: Perl.
SERVER = r"""
use IO::Socket::INET;
my ($port, $path) = @ARGV;
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) {
    while (<$client>) { last if /^\r?$/ }
    open my $file, "<", $path; local $/; my $body = <$file>;
    print $client "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
    close $client;
}
"""
#: What a start of the hybrid stack makes, besides Ollama.
SERVICES = (
    *("balancer", "llm-call-api", "claude-proxy", "egress", "redis", "debug-ports"),
    *(f"claude-runner-{number}" for number in range(1, 9)),
)
#: The GPUs of the CDI specification, and what lies at their device files.
GPUS = {"0": "/dev/null", "1": "/dev/zero"}


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
        nodes = {name: {"path": f"/dev/nvidia{name}", "hostPath": path} for name, path in GPUS.items()}
        chosen = {**{name: [node] for name, node in nodes.items()}, "all": list(nodes.values())}
        devices = [{"name": name, "containerEdits": {"deviceNodes": each}} for name, each in chosen.items()]
        document = {
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": devices,
            "containerEdits": {"mounts": mounts, "env": ["NVIDIA_VISIBLE_DEVICES=void"]},
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


@pytest.mark.parametrize("driver", ["nvidia", "cdi"])
def test_production_may_have_it_by_either_driver(scene: Scene, driver: str) -> None:
    device = "GPU-f15ae561-21b1-6003-c768-861fc285203b"
    _configure(scene.machine, GPU_DRIVER=driver, GPU_DEVICE=device, LLM_CALL_API_VARIANT="cuda")
    done = scene.machine.invoke("config", "--overlay", "prod+gpu", "--json", prefix=scene.prefix)
    assert done.returncode == 0, done.stderr
    asked = {place: text for place, text in json.loads(done.stdout).items() if "reservations.devices" in place}
    assert {place.split(".")[1] for place in asked} == {"ollama", "llm-call-api"}
    name = device if driver == "nvidia" else f"nvidia.com/gpu={device}"
    assert {text for place, text in asked.items() if "capabilities" not in place} == {driver, name}


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
        _copy(shared, _engine(machine), base)
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
    assert found.state("GPU engine") == "ok"
    assert found.seen("GPU engine") == "the engine gives nvidia.com/gpu=0 by CDI; CDI has 0, 1, all"
    assert found.seen("GPU container").startswith("a container of shipyard-base:")
    assert found.seen("GPU container").endswith(" sees GPU 0: NVIDIA A10")
    assert found.seen("GPU model").startswith("no Ollama of this checkout runs")
    _ollama(given, size_vram=0)
    cpu = machine.examined(status=24, prefix=given.prefix)
    assert (cpu.failed(), cpu.seen("GPU model")) == ({"GPU model"}, "tiny:1b runs on the CPU")
    assert cpu.seen("GPU container") == "container ollama sees GPU 0: NVIDIA A10"
    _loaded(given, size_vram=1000)
    assert machine.examined(status=0, prefix=given.prefix).seen("GPU model") == "tiny:1b is on the GPU"
    _api(given)
    assert (
        machine.examined(status=24, prefix=given.prefix).seen("GPU model") == "local models of the API run on the CPU"
    )
    _health(given, gpu={"state": "ok"})
    assert machine.examined(status=0, prefix=given.prefix).state("GPU model") == "ok"
    given.smi(LOST, given.given / "nvidia-smi")
    lost = machine.examined(status=24, prefix=given.prefix)
    assert lost.failed() == {"GPU container"}
    assert lost.seen("GPU container").startswith("container ollama has lost its GPU")
    assert "docker restart ollama" in lost.mend("GPU container")
    assert lost.state("GPU model") == "skip"


@pytest.fixture
def stack(given: Scene) -> Iterator[Scene]:
    """With a Compose file that puts the base image in the place of every other, for as little as a start needs of them."""
    machine = given.machine
    well = {"test": ["CMD", "true"], "interval": "1s"}
    idle = {"image": _base(machine), "command": ["sleep", "infinity"], "healthcheck": well}
    # What the toolkit asks the balancer, of one who has heard of an instance of the API.
    (given.given / "balancer.json").write_text('{"instances": 1}')
    asked = ["perl", "-e", SERVER.replace("$", "$$"), "8001", "/given/balancer.json"]
    balancer = {**idle, "command": asked, "volumes": [f"{given.given}:/given:ro"]}
    services = {**dict.fromkeys((*SERVICES, "ollama"), idle), "balancer": balancer}
    (given.given / "idle.json").write_text(json.dumps({"services": services}))
    machine.variables["SHIPYARD_COMPOSE_EXTRA"] = str(given.given / "idle.json")
    _configure(machine, OLLAMA_CPUS="1", OLLAMA_MEMORY="64m")
    yield given
    machine.invoke("down", "--volumes", prefix=given.prefix)


def test_what_an_engine_with_cdi_alone_has_not_is_refused_before_anything_starts(stack: Scene) -> None:
    machine = stack.machine
    for settings, problem in (
        ({"GPU_DRIVER": "nvidia"}, ".env: GPU_DRIVER: the engine has no device driver nvidia for GPUs; leave it out: "),
        ({"GPU_DRIVER": "cdi", "GPU_DEVICE": "2"}, '.env: GPU_DEVICE: there is no "2"; known: 0, 1, all'),
    ):
        _configure(machine, **settings)
        refused = machine.invoke("hybrid", "--gpu", prefix=stack.prefix)
        assert (refused.returncode, problem in refused.stderr) == (3, True), refused.stderr
        assert _services(machine) == {}
    assert 'could not select device driver "nvidia"' in _plain(stack), "it is the engine that refuses otherwise"


def test_a_stack_on_an_engine_that_has_it_by_cdi_alone(stack: Scene) -> None:
    machine = stack.machine
    started = machine.invoke("hybrid", "--gpu", prefix=stack.prefix)
    assert started.returncode == 0, started.stderr
    assert "containers get nvidia.com/gpu=0 by CDI" in started.stderr
    first = _services(machine)
    assert {service: _cards(machine, each) for service, each in first.items()} == {
        **{each: set() for each in SERVICES},
        "ollama": {"nvidia0"},
    }
    status = json.loads(machine.invoke("status", "--json", prefix=stack.prefix).stdout)
    assert (status["overlay"], status["add_ons"]) == ("hybrid", ["gpu"])
    assert _plain(stack, GPU_DRIVER="cdi") == ""
    assert _services(machine) == first, "plain Compose comes to the same with this line of .env"

    _configure(machine, GPU_DEVICE="all")
    moved = machine.invoke("hybrid", "--gpu", prefix=stack.prefix)
    assert moved.returncode == 0, moved.stderr
    second = _services(machine)
    assert _cards(machine, second.pop("ollama")) == {"nvidia0", "nvidia1"}
    assert second.items() <= first.items(), "nobody else was touched"


def _configure(machine: Machine, **settings: str) -> None:
    """Lines of .env about GPUs, in the place of earlier ones; of other settings, further ones."""
    file = machine.root / ".env"
    kept = [line for line in file.read_text().splitlines() if not line.startswith("GPU_")]
    file.write_text("".join(f"{line}\n" for line in [*kept, *(f"{name}={text}" for name, text in settings.items())]))


def _plain(scene: Scene, **settings: str) -> str:
    """Compose as a person has it who has no toolkit, with these lines of .env; return what it complains of."""
    machine = scene.machine
    _configure(machine, **settings)
    engine, names = _engine(machine), ("compose", "hybrid", "gpu")
    files = [f"--file=compose/{name}.yaml" for name in names] + [f"--file={scene.given}/idle.json"]
    argv = [engine.docker, "compose", *files, "up", "--detach", "--wait", "ollama"]
    done = subprocess.run(
        argv, check=False, cwd=machine.root, env=engine.environment(), capture_output=True, text=True, timeout=60
    )
    return done.stderr if done.returncode else ""


def _docker(machine: Machine, *words: str) -> str:
    engine = _engine(machine)
    done = subprocess.run(
        [engine.docker, *words], check=False, env=engine.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def _services(machine: Machine) -> dict[str, str]:
    """Services by the container that runs for each, and its id."""
    shown = _docker(machine, "ps", "--all", "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}')
    return dict(line.split() for line in shown.splitlines())


def _cards(machine: Machine, container: str) -> set[str]:
    """The GPUs' device files in a container, each of which can be read and is the one that the specification names."""
    found = set(_docker(machine, "exec", container, "sh", "-c", "ls /dev | grep nvidia || true").split())
    for name in found:
        same = f"test -c /dev/{name} && head -c 1 /dev/{name} | cmp - {GPUS[name[6:]]} -n 1"
        _docker(machine, "exec", container, "sh", "-c", same)
    return found


def _engine(machine: Machine) -> Engine:
    docker, client = shipyard.engine.find().docker, machine.home / "client"
    return Engine(f"unix://{machine.home}/run/docker.sock", docker, "embedded", client)


def _base(machine: Machine) -> str:
    """The one image that its engine has."""
    return str(next(iter(json.loads((machine.home / "base.json").read_text()).values()))["reference"])


def _loaded(scene: Scene, *, size_vram: int) -> None:
    document = {"models": [{"name": "tiny:1b", "size": 1000, "size_vram": size_vram}]}
    (scene.given / "ps.json").write_text(json.dumps(document))


def _ollama(scene: Scene, *, size_vram: int) -> None:
    _loaded(scene, size_vram=size_vram)
    _server(scene, "ollama", _base(scene.machine), 11434, "/given/ps.json", "--device=nvidia.com/gpu=all")


def _health(scene: Scene, **dependencies: object) -> None:
    document = {"status": "ok", "dependencies": {"local/tiny": {"state": "ok", "required": False}, **dependencies}}
    (scene.given / "health.json").write_text(json.dumps(document))


def _api(scene: Scene) -> None:
    image = "llm-call-api:of-the-test-cuda"
    _docker(scene.machine, "tag", _base(scene.machine), image)
    _health(scene)
    _server(scene, "llm-call-api", image, 8001, "/given/health.json")


def _server(scene: Scene, service: str, image: str, port: int, file: str, *options: str) -> None:
    """A container that says what a service says, with the labels that Compose gives to it."""
    machine = scene.machine
    labels = {"project": shipyard.dotenv.project_name(machine.root), "service": service}
    words = [word for name, value in labels.items() for word in ("--label", f"com.docker.compose.{name}={value}")]
    words += ["--pull=never", "--init", f"--name={service}", f"--volume={scene.given}:/given:ro", *options]
    _docker(machine, "run", "--detach", *words, image, "perl", "-e", SERVER, str(port), file)
    shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = _docker(machine, "inspect", "--format", shown, service).strip()
    asked = ["bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    wait_until(
        lambda: subprocess.run([*scene.prefix, *asked], check=False, capture_output=True).returncode == 0, service, 20
    )
