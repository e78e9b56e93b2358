"""A GPU's way into a container, link by link: device, driver, toolkit, engine, container, model. Pure.

`--gpu` asks the same functions (shipyard/gpus.py), so that there is one place that knows what may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shipyard.diagnosis import gpu_choice
from shipyard.diagnosis.finding import Finding, fail, ok, skip, warn, worst
from shipyard.diagnosis.gpu_choice import CDI_KIND, GENERATE

NONE = "no NVIDIA GPU on this machine"
#: Where CDI specifications lie (the engine's default, `CDISpecDirs` of /info).
CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
#: What NVML says in a container whose devices were taken away by a reload of systemd's units; known to NVIDIA as issue 48 of
#: its container toolkit ("NOTICE: Containers losing access to GPUs").
LOST = "Failed to initialize NVML: Unknown Error"
MISMATCH = "Driver/library version mismatch"
#: What models are called that the API runs itself (config/models.toml).
LOCAL_MODELS = "local/"
_NO_DRIVER = "couldn't communicate with the NVIDIA driver"


@dataclass(frozen=True)
class Said:
    """What a program said at its end; ``status`` is None when it did not end in time."""

    status: int | None
    text: str

    @property
    def last(self) -> str:
        """Its last line."""
        lines = self.text.strip().splitlines()
        return lines[-1].strip()[-160:] if lines else "it says nothing"


def device(cards: Iterable[str], node: bool, place: str, *, meant: bool) -> Finding:
    """``cards`` are places on the PCI bus, ``node`` whether the driver's device is at ``place``, ``meant`` whether anything of
    NVIDIA's is installed: a card that nobody wants to compute with is no fault.
    """
    found = list(cards)
    if node:
        return ok(f"{len(found)} at PCI {', '.join(found)}" if found else place)
    if not found:
        return skip(NONE)
    return (fail if meant else warn)(
        f"there is a GPU at PCI {', '.join(found)}, but its driver is not loaded ({place} is missing)",
        "install NVIDIA's driver for this kernel, then `modprobe nvidia nvidia_uvm`",
    )


def driver(loaded: str, smi: Said | None) -> Finding:
    """``loaded`` is the kernel module's version, empty when none says it; ``smi`` what nvidia-smi says, None without it."""
    module = f"driver {loaded}" if loaded else "a driver that does not say its version"
    if smi is None:
        return warn(f"{module}; nvidia-smi is missing, so it cannot be tried", "install the driver's own utilities")
    if smi.status is None:
        return fail(f"{module}: nvidia-smi does not answer", "see `dmesg | grep -i nvrm`; restart this machine")
    if _mismatch(smi):
        return fail(
            f"{module} is loaded, the libraries are of another version ({MISMATCH}): an update came while it was in use",
            "restart this machine, or `rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && modprobe nvidia nvidia_uvm`",
        )
    if _NO_DRIVER in smi.text:
        return fail(f"nvidia-smi {_NO_DRIVER}", "build the module for this kernel: `dkms autoinstall`, then restart")
    if smi.status:
        return fail(f"{module}: nvidia-smi: {smi.last}", "see `dmesg | grep -i nvrm`")
    return ok(f"{module}: {'; '.join(smi.text.strip().splitlines())}")


def _mismatch(said: Said) -> bool:
    """NVML writes it large, the container toolkit small."""
    return MISMATCH.lower() in said.text.lower()


def toolkit(ctk: str, specifications: Mapping[str, str], loaded: str) -> Finding:
    """``ctk`` is the path of nvidia-ctk; ``specifications`` are the texts of CDI files by path, ``loaded`` the driver's version."""
    ours = {path: text for path, text in specifications.items() if CDI_KIND in text}
    stale = [(path, was) for path, text in ours.items() for was in _libraries(text) if loaded and was != loaded]
    if stale:
        seen = ", ".join(f"{path} is of driver {was}, loaded is {loaded}" for path, was in dict.fromkeys(stale))
        return fail(seen, GENERATE)
    if not ctk and not ours:
        return fail(
            f"neither nvidia-ctk nor a CDI specification of {CDI_KIND} in {' or '.join(CDI_FOLDERS)}",
            f"install nvidia-container-toolkit, then `{GENERATE}`",
        )
    return ok(", ".join([*([ctk] if ctk else []), *ours]))


def _libraries(text: str) -> list[str]:
    """The driver's version that a CDI specification was made for, read off the library that every program loads."""
    return list(dict.fromkeys(re.findall(r"libcuda\.so\.(\d+\.\d+(?:\.\d+)?)", text)))


def runtime(info: Mapping[str, Any], settings: Mapping[str, str], cards: Iterable[str] = ()) -> Finding:
    """Whether the engine can give a GPU to a container, by NVIDIA's driver or by CDI, and the one that the settings name.

    ``cards`` are the names that NVIDIA's driver takes, none where nobody could be asked.
    """
    if not gpu_choice.drivers(info):
        return fail(
            "there is a GPU, but the engine cannot give it to containers",
            "install nvidia-container-toolkit, then `nvidia-ctk runtime configure` "
            f"(or `{GENERATE}`, from engine 28.2 on) and restart the engine",
        )
    if wrong := gpu_choice.faults(settings) or gpu_choice.lacking(info, settings, cards):
        return fail("; ".join(f"{each.place}: {each.problem}" for each in wrong), *(each.hint for each in wrong))
    there = gpu_choice.devices(info)
    return ok(
        f"the engine gives {gpu_choice.choose(info, settings)}" + (f"; CDI has {', '.join(there)}" if there else "")
    )


def container(where: str, said: Said) -> Finding:
    """What `nvidia-smi -L` says inside a container; ``where`` names it."""
    if LOST in said.text:
        again = f"docker restart {where.removeprefix('container ')}"
        return fail(
            f"{where} has lost its GPU ({LOST}): units were reloaded while it ran",
            f"`{again}`; for good, give it by CDI, or `nvidia-ctk system create-dev-char-symlinks --create-all`",
        )
    if _mismatch(said):
        return fail(f"{where}: {MISMATCH}", "start the container anew; it has the libraries of an earlier driver")
    if said.status is None:
        return fail(f"{where} does not answer", "docker logs it, and see `dmesg | grep -i nvrm`")
    if said.status:
        return fail(f"{where}: {said.last}", "see the checks above; `docker info` says what the engine has")
    return ok(f"{where} sees {'; '.join(line.partition(' (UUID')[0] for line in said.text.strip().splitlines())}")


def model(document: Mapping[str, Any]) -> Finding:
    """Whether the models that Ollama has loaded (`GET /api/ps`) are on the GPU: ``size_vram`` of ``size`` bytes."""
    found = [_model(each) for each in document.get("models") or ()]
    return worst(found) if found else skip("no model is loaded; ask one, then look again")


def served(document: Mapping[str, Any]) -> Finding:
    """Whether the local models of an API whose image has CUDA run on the GPU (``GET /health``)."""
    there: Mapping[str, Any] = document.get("dependencies") or {}
    if not any(name.startswith(LOCAL_MODELS) for name in there):
        return skip("the API lists no local model")
    if "gpu" not in there:
        return fail(
            "local models of the API run on the CPU",
            "start with `--gpu`; `invoke logs --service llm-call-api` says why no GPU was found",
        )
    if there["gpu"].get("state") != "ok":
        return fail(
            f"the API has lost its GPU: {there['gpu'].get('reason', '?')}", "see `invoke logs --service llm-call-api`"
        )
    return ok("local models of the API are on the GPU")


def _model(each: Mapping[str, Any]) -> Finding:
    name, size, there = str(each.get("name", "?")), int(each.get("size") or 0), int(each.get("size_vram") or 0)
    if size and not there:
        return fail(f"{name} runs on the CPU", "see `invoke logs --service ollama` for why it found no GPU")
    if there < size:
        return warn(f"{there * 100 // size} % of {name} is on the GPU", "a smaller model, or less context, fits")
    return ok(f"{name} is on the GPU")
