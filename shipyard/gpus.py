"""Whether the engine can give a GPU to a container; asked before anything is built or stopped for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipyard.engine import api
from shipyard.errors import NoGpu

if TYPE_CHECKING:
    from shipyard.engine import Engine

#: The driver's control device: there as soon as its kernel module is loaded.
DEVICE = Path("/dev/nvidiactl")


def check(engine: Engine) -> None:
    """Raise NoGpu with what is missing and what to do."""
    info: dict[str, Any] = api.get(engine.host, "/info") or {}
    if engine.host.startswith("unix:") and not DEVICE.exists():
        msg = (
            f"--gpu: this machine has no NVIDIA GPU, or its driver is not loaded ({DEVICE} is missing); leave --gpu out"
        )
        raise NoGpu(msg)
    devices = [str(each.get("ID", "")) for each in info.get("DiscoveredDevices") or ()]
    if "nvidia" not in (info.get("Runtimes") or {}) and not any(each.startswith("nvidia.com/gpu") for each in devices):
        msg = (
            "--gpu: there is a GPU, but the engine cannot give it to containers: install nvidia-container-toolkit, then "
            "`nvidia-ctk runtime configure` (or `nvidia-ctk cdi generate`) and restart the engine"
        )
        raise NoGpu(msg)
