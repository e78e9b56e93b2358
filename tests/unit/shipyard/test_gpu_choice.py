"""Which GPU containers get, and by which driver: settings win, the engine decides the rest, what is wrong has its place."""

from __future__ import annotations

from typing import Any

import pytest

from shipyard.diagnosis import gpu_choice
from shipyard.diagnosis.gpu_choice import Choice

UUID = "GPU-f15ae561-21b1-6003-c768-861fc285203b"
RUNTIME = {"Runtimes": {"runc": {}, "nvidia": {}}}
#: As `nvidia-smi -L` has it on a machine with one whole GPU and one in parts.
LISTED = f"""\
GPU 0: NVIDIA A10 (UUID: {UUID})
GPU 1: NVIDIA A100-PCIE-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 1g.5gb      Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1g.5gb      Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
"""


def cdi(*names: str, kind: str = "nvidia.com/gpu") -> dict[str, Any]:
    return {
        "Runtimes": {"runc": {}},
        "DiscoveredDevices": [{"Source": "cdi", "ID": f"{kind}={name}"} for name in names],
    }


@pytest.mark.parametrize(
    ("info", "settings", "choice"),
    [
        (RUNTIME, {}, Choice("nvidia", "0")),
        ({**cdi("0", "all"), **RUNTIME}, {}, Choice("nvidia", "0")),
        (cdi("0", "1", "all"), {}, Choice("cdi", "0")),
        (cdi("1", "0"), {}, Choice("cdi", "0")),
        (cdi("all", "gpu0", "gpu1"), {}, Choice("cdi", "gpu0")),
        (cdi("all"), {}, Choice("cdi", "all")),
        ({}, {}, Choice("nvidia", "0")),  # nobody has one: what plain Compose asks for
        ({}, {"GPU_DRIVER": "cdi"}, Choice("cdi", "0")),
        (cdi("x", kind="other.com/gpu"), {}, Choice("nvidia", "0")),
        (cdi("0", "1"), {"GPU_DEVICE": "1"}, Choice("cdi", "1")),
        (cdi("0", "1"), {"GPU_DRIVER": "nvidia"}, Choice("nvidia", "0")),
        ({**cdi("0"), **RUNTIME}, {"GPU_DRIVER": "cdi", "GPU_DEVICE": "0"}, Choice("cdi", "0")),
        (RUNTIME, {"GPU_DEVICE": UUID}, Choice("nvidia", UUID)),
    ],
)
def test_choices(info: dict[str, Any], settings: dict[str, str], choice: Choice) -> None:
    assert gpu_choice.choose(info, settings) == choice
    assert gpu_choice.choose(info, choice.variables()) == choice


def test_the_ways_of_a_choice() -> None:
    assert Choice("nvidia", "1").options() == ["--gpus", "device=1"]
    assert Choice("cdi", "all").options() == ["--device=nvidia.com/gpu=all"]
    assert [str(Choice("nvidia", "1")), str(Choice("cdi", "1"))] == [
        "GPU 1 by the driver nvidia",
        "nvidia.com/gpu=1 by CDI",
    ]


def test_names_of_nvidias_driver() -> None:
    assert gpu_choice.listed(LISTED) == [
        *("0", UUID, "1", "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"),
        *("1:0", "MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "1:1", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d"),
    ]
    assert gpu_choice.listed("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") == []


@pytest.mark.parametrize("device", ["0", "12", "0:1", "all", UUID, "gpu0"])
@pytest.mark.parametrize("driver", ["nvidia", "cdi"])
def test_what_is_right(driver: str, device: str) -> None:
    assert gpu_choice.faults({"GPU_DRIVER": driver, "GPU_DEVICE": device}) == []
    assert gpu_choice.faults({}) == []


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("GPU_DRIVER", "nvidai", '"nvidai" is no device driver for GPUs; perhaps you meant "nvidia"'),
        ("GPU_DRIVER", "amd.com", '"amd.com" is no device driver for GPUs; known: cdi, nvidia'),
        ("GPU_DRIVER", "", "is empty; write nvidia or cdi, or leave it out: the engine decides"),
        ("GPU_DEVICE", "", "is empty; write an index, a UUID or all, or leave it out: the first one is taken"),
        ("GPU_DEVICE", "nvidia.com/gpu=1", '"nvidia.com/gpu=1" is no name of a GPU; write 1'),
        ("GPU_DEVICE", "0,1", '"0,1" is no name of a GPU; write one index, one UUID or all'),
        ("GPU_DEVICE", "vendor.com/disk=0", '"vendor.com/disk=0" is no name of a GPU; write one index'),
        ("GPU_DEVICE", "-1", '"-1" is no name of a GPU'),
    ],
)
def test_what_is_wrong_whatever_there_is(name: str, value: str, problem: str) -> None:
    (found,) = gpu_choice.faults({name: value})
    assert str(found).startswith(f".env: {name}: {problem}")


def test_everything_at_once() -> None:
    assert len(gpu_choice.faults({"GPU_DRIVER": "", "GPU_DEVICE": ""})) == 2


@pytest.mark.parametrize(
    ("info", "settings", "cards", "problem"),
    [
        (
            cdi("0"),
            {"GPU_DRIVER": "nvidia"},
            [],
            "GPU_DRIVER: the engine has no device driver nvidia for GPUs; leave it out: the engine gives nvidia.com/gpu=0 by CDI",
        ),
        (
            RUNTIME,
            {"GPU_DRIVER": "cdi"},
            [],
            "GPU_DRIVER: the engine has no device driver cdi for GPUs; leave it out: the engine gives GPU 0 by the driver nvidia, "
            "and `nvidia-ctk cdi generate",
        ),
        (cdi("0", "all"), {"GPU_DEVICE": "1"}, [], 'GPU_DEVICE: there is no "1"; known: 0, all'),
        (RUNTIME, {"GPU_DEVICE": "2"}, gpu_choice.listed(LISTED), 'GPU_DEVICE: there is no "2"; known: 0, 1'),
        (RUNTIME, {"GPU_DEVICE": "none"}, ["0", UUID], 'GPU_DEVICE: there is no "none"'),
    ],
)
def test_what_this_engine_lacks(info: dict[str, Any], settings: dict[str, str], cards: list[str], problem: str) -> None:
    (found,) = gpu_choice.lacking(info, settings, cards)
    assert str(found).startswith(f".env: {problem}")


@pytest.mark.parametrize(
    ("info", "settings", "cards"),
    [
        (RUNTIME, {}, []),
        (RUNTIME, {"GPU_DEVICE": "7"}, []),  # nvidia-smi is elsewhere, or missing
        (RUNTIME, {"GPU_DEVICE": "all"}, ["0", UUID]),
        (RUNTIME, {"GPU_DEVICE": UUID}, ["0", UUID]),
        (cdi("all"), {}, []),
        (cdi("all"), {"GPU_DRIVER": "cdi"}, []),
        ({}, {"GPU_DRIVER": "cdi"}, []),  # told in other words: this engine can give none at all
    ],
)
def test_what_this_engine_has(info: dict[str, Any], settings: dict[str, str], cards: list[str]) -> None:
    assert gpu_choice.lacking(info, settings, cards) == []
