"""What code that runs on an NVIDIA GPU needs of the sandbox beyond all else: device files, and what describes them.

The driver's library opens these while it starts (570 and later), names its threads (`entries`) and asks for memory
that has no file (`seccomp.FOR_GPU`); the refusal of any of it ends in CUDA's error 304. Nothing here is a way to other
requests: the library asks the driver's module, and that keeps processes apart.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

log = logging.getLogger("claude_proxy.gpu")

NODE = re.compile(r"nvidia\d+|nvidiactl|nvidia-uvm(?:-tools)?|nvidia-caps/nvidia-cap\d+")
"""Names in /dev: the cards, their control, shared memory, and parts of a card. Not nvidia-modeset, which is for screens."""
DESCRIPTIONS = (
    *("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/devices", "/proc/modules"),
    *("/sys/module/nvidia", "/sys/module/nvidia_uvm", "/sys/devices/system/memory", "/sys/devices/system/node"),
)
"""What the library reads to find them and the memory next to them; the same for every process of the machine."""


def nodes(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the device files of GPUs that there are; none where the container was given none."""
    found = sorted((*devices.glob("nvidia*"), *devices.glob("nvidia-caps/*")))
    return tuple(str(each) for each in found if NODE.fullmatch(str(each.relative_to(devices))))


def announce() -> None:
    """Log which GPUs tools can use, or that there are none."""
    if found := nodes():
        log.info("tools can use GPUs", extra={"devices": list(found)})
    else:
        log.warning("CLAUDE_PROXY_GPU is on and there is no GPU here: what tools run stays on the processors")
