"""The GPU of this machine: what is there of it, and whether the engine can give it to a container."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipyard.diagnosis import gpu, gpu_choice
from shipyard.diagnosis.finding import FAIL, SKIP, WARN, Finding
from shipyard.engine import api
from shipyard.errors import CommandFailed, ConfigError, NoGpu
from shipyard.run import run

if TYPE_CHECKING:
    from shipyard.engine import Engine

#: The driver's control device: there as soon as its kernel module is loaded.
DEVICE = Path("/dev/nvidiactl")
#: What its kernel module says of itself: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15 ...".
_VERSION = Path("/proc/driver/nvidia/version")
_PCI = Path("/sys/bus/pci/devices")
#: NVIDIA's number as a maker of PCI devices, and the class of display controllers (PCI code and ID assignment).
_VENDOR, _DISPLAY = "0x10de", "0x03"
#: Seconds for one call of nvidia-smi: one to two when it has to wake the card, for ever when the driver hangs.
PATIENCE = 10.0


def choice(engine: Engine, settings: Mapping[str, str]) -> gpu_choice.Choice:
    """What containers get: what the settings say, else what the engine has. Raises EngineFailed."""
    return gpu_choice.choose(api.get(engine.host, "/info") or {}, settings)


def check(engine: Engine, settings: Mapping[str, str]) -> gpu_choice.Choice:
    """Return what containers will get; asked before anything is built or stopped for it.

    Raises ConfigError for settings that are wrong or name what is not there, NoGpu with what is missing and what to do.
    """
    if wrong := gpu_choice.faults(settings):
        raise ConfigError(wrong)
    info, local = api.get(engine.host, "/info") or {}, engine.host.startswith("unix:")
    if local:
        found = device()
        if found.state == SKIP:
            msg = (
                "--gpu: this machine has no NVIDIA GPU, or its driver is not loaded "
                f"({DEVICE} is missing); leave --gpu out"
            )
            raise NoGpu(msg)
        _refuse(found, FAIL, WARN)  # a card that nobody meant to use cannot be used either
    if wrong := gpu_choice.lacking(info, settings, cards(info, settings) if local else ()):
        raise ConfigError(wrong)
    _refuse(gpu.runtime(info, settings), FAIL)
    return gpu_choice.choose(info, settings)


def _refuse(found: Finding, *states: str) -> None:
    if found.state in states:
        msg = f"--gpu: {found.seen}: {'; '.join(found.mend)}"
        raise NoGpu(msg)


def device() -> Finding:
    """Whether this machine has one, with its driver loaded. Starts nothing."""
    meant = any(shutil.which(name) for name in ("nvidia-smi", "nvidia-ctk"))
    return gpu.device(_cards(), DEVICE.exists(), str(DEVICE), meant=meant)


def _cards() -> list[str]:
    found = []
    for place in sorted(_PCI.glob("*")):
        with suppress(OSError):
            vendor, kind = (place / "vendor").read_text().strip(), (place / "class").read_text()
            if vendor == _VENDOR and kind.startswith(_DISPLAY):
                found.append(place.name)
    return found


def loaded() -> str:
    """The version of the kernel module that is loaded; empty when none says it."""
    try:
        match = re.search(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s", _VERSION.read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def driver() -> Finding:
    """Whether the driver and its libraries agree and answer."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    return gpu.driver(loaded(), said(query) if shutil.which("nvidia-smi") else None)


def cards(info: Mapping[str, Any], settings: Mapping[str, str]) -> list[str]:
    """The names that NVIDIA's driver takes on this machine, where a setting has to be held against them; else nobody is asked."""
    asked = gpu_choice.DEVICE in settings and gpu_choice.choose(info, settings).driver == gpu_choice.NVIDIA
    return gpu_choice.listed(said(["nvidia-smi", "-L"]).text) if asked and shutil.which("nvidia-smi") else []


def said(argv: list[str], env: dict[str, str] | None = None) -> gpu.Said:
    """What a program says of the GPU, on either stream, in at most ``PATIENCE`` seconds."""
    try:
        found = run(argv, env=env, timeout=PATIENCE, check=False)
    except CommandFailed:
        return gpu.Said(None, "")
    return gpu.Said(found.status, found.stdout + found.stderr)


def toolkit() -> Finding:
    """Whether containers can be given it: NVIDIA's toolkit, or a CDI specification that fits the driver."""
    texts = {}
    for folder in map(Path, gpu.CDI_FOLDERS):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.json"))):
            with suppress(OSError):
                texts[str(path)] = path.read_text(errors="replace")
    return gpu.toolkit(shutil.which("nvidia-ctk") or "", texts, loaded())
