"""Which GPU `--gpu` gives to containers, and by which of the engine's device drivers. Pure.

Two lines of ``.env`` say so. What they leave open the engine decides: NVIDIA's driver where it has that, else CDI. Compose
reads the same two (compose/gpu-devices.yaml).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shipyard import policy_rules as rules
from shipyard.models import Fault
from shipyard.names import perhaps

DRIVER, DEVICE = "GPU_DRIVER", "GPU_DEVICE"
NVIDIA, CDI = DRIVERS = tuple(rules.DEVICES)
#: The kind that the devices have which `nvidia-ctk cdi generate` writes into a CDI specification, and that command.
CDI_KIND, GENERATE = rules.CDI_KIND, "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
#: What both drivers call the first GPU, and all of them together.
FIRST, ALL = "0", "all"
_NAME = re.compile(rules.GPU_NAME)
#: Lines of `nvidia-smi -L`: "GPU 0: NVIDIA A10 (UUID: GPU-...)", and below it for a part "  MIG 1g.5gb Device 0: (UUID: MIG-...)".
_LISTED = re.compile(r"^(?:GPU (\d+):|\s+MIG .*Device\s+(\d+):).*\(UUID: ([^)\s]+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Choice:
    """One of the engine's device drivers, and the device by the name that comes after its kind."""

    driver: str
    device: str

    def __str__(self) -> str:
        """``nvidia.com/gpu=0 by CDI``."""
        return f"{CDI_KIND}={self.device} by CDI" if self.driver == CDI else f"GPU {self.device} by the driver {NVIDIA}"

    def variables(self) -> dict[str, str]:
        """What Compose fills in."""
        return {DRIVER: self.driver, DEVICE: self.device}

    def options(self) -> list[str]:
        """What gives the same to `docker run`."""
        if self.driver == CDI:
            return [f"--device={CDI_KIND}={self.device}"]
        return ["--gpus", f"device={self.device}"]


def choose(info: Mapping[str, Any], settings: Mapping[str, str]) -> Choice:
    """What the settings say and, where they say nothing, what the engine with this /info has; NVIDIA's driver if it has none."""
    driver = settings.get(DRIVER) or next(iter(drivers(info)), NVIDIA)
    # Names of CDI devices are the specification's own: those of a virtual machine may be "all" alone.
    there = sorted(devices(info), key=lambda name: (name != FIRST, name == ALL)) if driver == CDI else []
    return Choice(driver, settings.get(DEVICE) or next(iter(there), FIRST))


def drivers(info: Mapping[str, Any]) -> list[str]:
    """The drivers by which the engine can give a GPU, the better known one first."""
    return [NVIDIA] * ("nvidia" in (info.get("Runtimes") or {})) + [CDI] * bool(devices(info))


def devices(info: Mapping[str, Any]) -> list[str]:
    """The names of NVIDIA's CDI devices that the engine has found (28.2 and newer say so)."""
    found = [str(each.get("ID", "")).partition("=") for each in info.get("DiscoveredDevices") or ()]
    return [name for kind, _, name in found if kind == CDI_KIND]


def listed(text: str) -> list[str]:
    """The names that NVIDIA's driver takes for what `nvidia-smi -L` lists: indices and UUIDs, of parts (MIG) too."""
    found, card = [], ""
    for index, part, uuid in _LISTED.findall(text):
        card = index or card
        found += [index or f"{card}:{part}", uuid]
    return found


def faults(settings: Mapping[str, str]) -> list[Fault]:
    """What is wrong in the settings whatever the engine has."""
    found = []
    driver, device = settings.get(DRIVER), settings.get(DEVICE)
    place = f".env: {DRIVER}"
    if driver == "":
        found.append(Fault(place, "is empty", f"write {NVIDIA} or {CDI}, or leave it out: the engine decides"))
    elif driver is not None and driver not in DRIVERS:
        found.append(Fault(place, f'"{driver}" is no device driver for GPUs', perhaps(driver, DRIVERS)))
    place = f".env: {DEVICE}"
    if device == "":
        found.append(
            Fault(place, "is empty", f"write an index, a UUID or {ALL}, or leave it out: the first one is taken")
        )
    elif device is not None and not _NAME.fullmatch(device):
        bare = device.removeprefix(f"{CDI_KIND}=")
        hint = f"write {bare}" if _NAME.fullmatch(bare) else f"write one index, one UUID or {ALL}"
        found.append(Fault(place, f'"{device}" is no name of a GPU', hint))
    return found


def lacking(info: Mapping[str, Any], settings: Mapping[str, str], cards: Iterable[str] = ()) -> list[Fault]:
    """What the settings ask for and an engine that can give a GPU has not. ``cards`` are the names that NVIDIA's driver takes,
    none where nobody could be asked.
    """
    choice, has = choose(info, settings), drivers(info)
    if not has:
        return []
    if choice.driver not in has:
        way = f"leave it out: the engine gives {choose(info, {})}"
        more = f", and `{GENERATE}` adds CDI" if choice.driver == CDI else ""
        return [Fault(f".env: {DRIVER}", f"the engine has no device driver {choice.driver} for GPUs", way + more)]
    known = devices(info) if choice.driver == CDI else [*cards, ALL] if (cards := list(cards)) else []
    if known and choice.device not in known:
        return [Fault(f".env: {DEVICE}", f'there is no "{choice.device}"', perhaps(choice.device, known))]
    return []
