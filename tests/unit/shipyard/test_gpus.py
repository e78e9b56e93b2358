"""Without a GPU that the engine can give, --gpu is refused with what is missing; nothing is asked of a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipyard import gpus
from shipyard.engine import Engine, api
from shipyard.errors import NoGpu

HERE = Engine("unix:///nowhere.sock", "docker", "host")


def answer(monkeypatch: pytest.MonkeyPatch, info: dict[str, Any]) -> None:
    monkeypatch.setattr(api, "get", lambda host, path: info)


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, {"Runtimes": {"nvidia": {}}})
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    with pytest.raises(NoGpu, match=r"no NVIDIA GPU, or its driver is not loaded .*leave --gpu out"):
        gpus.check(HERE)


@pytest.mark.parametrize("info", [{}, {"Runtimes": {"runc": {}}}, {"DiscoveredDevices": [{"ID": "other/x"}]}])
def test_an_engine_that_cannot_give_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: dict[str, Any]) -> None:
    answer(monkeypatch, info)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    with pytest.raises(NoGpu, match="nvidia-container-toolkit"):
        gpus.check(HERE)


@pytest.mark.parametrize(
    "info", [{"Runtimes": {"nvidia": {}}}, {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}]
)
def test_one_that_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: dict[str, Any]) -> None:
    answer(monkeypatch, info)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    gpus.check(HERE)


def test_a_remote_engine_is_asked_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, {"Runtimes": {"nvidia": {}}})
    monkeypatch.setattr(gpus, "DEVICE", tmp_path / "nvidiactl")
    gpus.check(Engine("tcp://127.0.0.1:2375", "docker", "host"))
