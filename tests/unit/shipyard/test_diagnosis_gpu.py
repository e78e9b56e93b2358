"""A GPU's way into a container, link by link. No machine of the tests has one: the texts are NVIDIA's own."""

from __future__ import annotations

import pytest

from shipyard.diagnosis import gpu
from shipyard.diagnosis.finding import FAIL, OK, SKIP, WARN, ok
from shipyard.diagnosis.gpu import Said

NODE = "/dev/nvidiactl"
SEEN = Said(0, "GPU 0: NVIDIA A10 (UUID: GPU-f15ae561-21b1-6003-c768-861fc285203b)\n")
LOST = Said(255, "Failed to initialize NVML: Unknown Error\n")
MISMATCH = Said(18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 560.35\n")
SPECIFICATION = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  mounts: [{hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15, containerPath: /usr/lib/libcuda.so.550.54.15}]
"""


def test_devices() -> None:
    none = gpu.device([], False, NODE, meant=True)
    assert (none.state, none.seen) == (SKIP, "no NVIDIA GPU on this machine")
    assert gpu.device(["0000:01:00.0"], True, NODE, meant=True).seen == "1 at PCI 0000:01:00.0"
    assert gpu.device([], True, NODE, meant=False).state == OK  # a container or a VM without a PCI bus
    assert gpu.device(["0000:01:00.0"], False, NODE, meant=True).state == FAIL
    unused = gpu.device(["0000:01:00.0"], False, NODE, meant=False)
    assert (unused.state, "/dev/nvidiactl is missing" in unused.seen) == (WARN, True)


@pytest.mark.parametrize(
    ("said", "state", "words", "mend"),
    [
        (Said(0, "NVIDIA A10, 23028 MiB\n"), OK, "driver 550.54.15: NVIDIA A10, 23028 MiB", ""),
        (None, WARN, "nvidia-smi is missing", "utilities"),
        (Said(None, ""), FAIL, "does not answer", "dmesg"),
        (MISMATCH, FAIL, "Driver/library version mismatch", "rmmod"),
        (
            Said(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure"),
            FAIL,
            "couldn't communicate",
            "dkms",
        ),
        (Said(15, "Unable to determine the device handle for GPU: GPU is lost.\n"), FAIL, "GPU is lost", "dmesg"),
    ],
)
def test_drivers(said: Said | None, state: str, words: str, mend: str) -> None:
    found = gpu.driver("550.54.15", said)
    assert (found.state, words in found.seen, mend in " ".join(found.mend)) == (state, True, True), found


def test_toolkits() -> None:
    missing = gpu.toolkit("", {}, "550.54.15")
    assert (missing.state, "/etc/cdi or /var/run/cdi" in missing.seen) == (FAIL, True)
    assert "nvidia-ctk cdi generate" in missing.mend[0]
    assert gpu.toolkit("", {"/etc/cdi/other.yaml": "kind: vendor.com/net\n"}, "").state == FAIL
    assert gpu.toolkit("/usr/bin/nvidia-ctk", {}, "550.54.15").seen == "/usr/bin/nvidia-ctk"
    assert gpu.toolkit("", {"/etc/cdi/nvidia.yaml": SPECIFICATION}, "550.54.15").seen == "/etc/cdi/nvidia.yaml"
    assert gpu.toolkit("", {"/etc/cdi/nvidia.yaml": SPECIFICATION}, "").state == OK


def test_a_specification_of_an_earlier_driver() -> None:
    stale = gpu.toolkit("/usr/bin/nvidia-ctk", {"/etc/cdi/nvidia.yaml": SPECIFICATION}, "560.35.03")
    assert (stale.state, stale.seen) == (FAIL, "/etc/cdi/nvidia.yaml is of driver 550.54.15, loaded is 560.35.03")


def test_engines() -> None:
    nvidia = {"Runtimes": {"nvidia": {}}}
    assert gpu.runtime(nvidia, {}) == ok("the engine gives GPU 0 by the driver nvidia")
    alone = {"DiscoveredDevices": [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "all")]}
    assert gpu.runtime(alone, {}) == ok("the engine gives nvidia.com/gpu=0 by CDI; CDI has 0, all")
    assert gpu.runtime({**nvidia, **alone}, {"GPU_DRIVER": "cdi", "GPU_DEVICE": "all"}).seen.startswith(
        "the engine gives nvidia.com/gpu=all by CDI"
    )
    for info in ({}, {"Runtimes": {"runc": {}}}, {"DiscoveredDevices": [{"ID": "other/x"}]}):
        assert "nvidia-container-toolkit" in gpu.runtime(info, {}).mend[0]


def test_settings_that_the_engine_cannot_meet() -> None:
    both = gpu.runtime({"Runtimes": {"nvidia": {}}}, {"GPU_DRIVER": "x", "GPU_DEVICE": ""})
    assert (both.state, len(both.mend)) == (FAIL, 2)
    assert both.seen == '.env: GPU_DRIVER: "x" is no device driver for GPUs; .env: GPU_DEVICE: is empty'
    card = gpu.runtime({"Runtimes": {"nvidia": {}}}, {"GPU_DEVICE": "1"}, ["0", "GPU-f15ae561"])
    assert card.seen == '.env: GPU_DEVICE: there is no "1"'


def test_containers() -> None:
    assert gpu.container("container o", SEEN).seen == "container o sees GPU 0: NVIDIA A10"
    lost = gpu.container("container o", LOST)
    assert (lost.state, "has lost its GPU" in lost.seen) == (FAIL, True)
    assert lost.mend[0].startswith("`docker restart o`")
    runtime = Said(125, "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch\n")
    assert "Driver/library version mismatch" in gpu.container("a container of x", runtime).seen
    other = Said(
        125, 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]'
    )
    assert (gpu.container("x", other).state, "could not select" in gpu.container("x", other).seen) == (FAIL, True)
    assert gpu.container("x", Said(None, "")).state == FAIL


def test_local_models_of_the_api() -> None:
    def health(**dependencies: object) -> dict[str, object]:
        return {"status": "ok", "dependencies": {"redis": {"state": "ok"}, **dependencies}}

    local = {"local/tiny": {"state": "ok", "required": False}}
    assert gpu.served({}).state == gpu.served(health()).state == SKIP
    assert gpu.served(health(**local)).seen == "local models of the API run on the CPU"
    assert gpu.served(health(**local, gpu={"state": "ok"})) == ok("local models of the API are on the GPU")
    lost = gpu.served(health(**local, gpu={"state": "failed", "reason": "llama-server finds no GPU"}))
    assert (lost.state, lost.seen) == (FAIL, "the API has lost its GPU: llama-server finds no GPU")


def test_models() -> None:
    def loaded(*models: tuple[str, int, int]) -> dict[str, object]:
        return {"models": [{"name": name, "size": size, "size_vram": there} for name, size, there in models]}

    assert gpu.model({}).state == SKIP
    assert gpu.model(loaded()).state == SKIP
    assert gpu.model(loaded(("qwen3:8b", 100, 100))).seen == "qwen3:8b is on the GPU"
    partly = gpu.model(loaded(("qwen3:8b", 100, 100), ("llama3:70b", 100, 48)))
    assert (partly.state, partly.seen) == (WARN, "48 % of llama3:70b is on the GPU")
    cpu = gpu.model(loaded(("qwen3:8b", 100, 0)))
    assert (cpu.state, cpu.seen) == (FAIL, "qwen3:8b runs on the CPU")
