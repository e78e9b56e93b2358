"""Without a GPU that the engine can give, --gpu is refused with what is missing; nothing is asked of a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipyard import gpus
from shipyard.diagnosis.gpu import Said
from shipyard.diagnosis.gpu_choice import Choice
from shipyard.engine import Engine, api
from shipyard.errors import ConfigError, NoGpu

HERE = Engine("unix:///nowhere.sock", "docker", "host")
NVIDIA = {"Runtimes": {"nvidia": {}}}
CDI = {"DiscoveredDevices": [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "1")]}


def answer(monkeypatch: pytest.MonkeyPatch, info: dict[str, Any]) -> None:
    monkeypatch.setattr(api, "get", lambda host, path: info)


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, {"Runtimes": {"nvidia": {}}})
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    with pytest.raises(NoGpu, match=r"no NVIDIA GPU, or its driver is not loaded .*leave --gpu out"):
        gpus.check(HERE, {})


@pytest.mark.parametrize("info", [{}, {"Runtimes": {"runc": {}}}, {"DiscoveredDevices": [{"ID": "other/x"}]}])
def test_an_engine_that_cannot_give_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: dict[str, Any]) -> None:
    answer(monkeypatch, info)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    with pytest.raises(NoGpu, match="nvidia-container-toolkit"):
        gpus.check(HERE, {})


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One GPU with its driver, and the folder of the only programs that are there: nvidia-smi, which lists it."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(gpus, "said", lambda argv: Said(0, "GPU 0: NVIDIA A10 (UUID: GPU-f15ae561)\n"))
    return programs


@pytest.mark.parametrize(
    ("info", "settings", "choice"),
    [
        (NVIDIA, {}, Choice("nvidia", "0")),
        (NVIDIA, {"GPU_DEVICE": "GPU-f15ae561"}, Choice("nvidia", "GPU-f15ae561")),
        (CDI, {}, Choice("cdi", "0")),
        (CDI, {"GPU_DEVICE": "1"}, Choice("cdi", "1")),
        ({**NVIDIA, **CDI}, {"GPU_DRIVER": "cdi"}, Choice("cdi", "0")),
    ],
)
@pytest.mark.usefixtures("card")
def test_one_that_can(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], settings: dict[str, str], choice: Choice
) -> None:
    answer(monkeypatch, info)
    assert gpus.check(HERE, settings) == gpus.choice(HERE, settings) == choice


@pytest.mark.parametrize(
    ("info", "settings", "problem"),
    [
        ({}, {"GPU_DRIVER": "x"}, 'GPU_DRIVER: "x" is no device driver'),
        (CDI, {"GPU_DRIVER": "nvidia"}, "GPU_DRIVER: the engine has no device driver nvidia"),
        (NVIDIA, {"GPU_DRIVER": "cdi"}, "GPU_DRIVER: the engine has no device driver cdi"),
        (NVIDIA, {"GPU_DEVICE": "1"}, 'GPU_DEVICE: there is no "1"; known: 0, GPU-f15ae561, all'),
        (CDI, {"GPU_DEVICE": "2"}, 'GPU_DEVICE: there is no "2"; known: 0, 1'),
    ],
)
@pytest.mark.usefixtures("card")
def test_settings_that_name_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], settings: dict[str, str], problem: str
) -> None:
    answer(monkeypatch, info)
    with pytest.raises(ConfigError, match=problem):
        gpus.check(HERE, settings)


def test_without_nvidia_smi_a_setting_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch, card: Path) -> None:
    answer(monkeypatch, NVIDIA)
    (card / "nvidia-smi").unlink()
    assert gpus.check(HERE, {"GPU_DEVICE": "7"}) == Choice("nvidia", "7")


def test_a_remote_engine_is_asked_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, {"Runtimes": {"nvidia": {}}})
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    gpus.check(Engine("tcp://127.0.0.1:2375", "docker", "host"), {"GPU_DEVICE": "7"})
