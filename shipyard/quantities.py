"""Settings that are numbers, sizes and ports: what is wrong in them, before Compose or a service trips over it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import Any

from shipyard.models import Fault, Selection

#: The variable that says how much memory, and how many processors, a service may use, where there is one.
MEMORY = {"llm-call-api": "LLM_CALL_API_MEMORY", "ollama": "OLLAMA_MEMORY"}
MEMORY |= {f"claude-runner-{number}": "CLAUDE_RUNNER_MEMORY" for number in range(1, 10)}
PROCESSORS = {"llm-call-api": "LLM_CALL_API_CPUS", "ollama": "OLLAMA_CPUS"}
#: The variable that moves each published port, by service and port in the container.
PORTS = {
    ("balancer", 8001): "LLM_CALL_API_PORT",
    ("debug-ports", 5678): "LLM_CALL_DEBUGGER_PORT",
    ("debug-ports", 3010): "CLAUDE_PROXY_PORT",
    ("debug-ports", 6379): "REDIS_PORT",
    ("debug-ports", 11434): "OLLAMA_PORT",
    ("prometheus", 9090): "PROMETHEUS_PORT",
}
#: Bytes that a service needs at least. The API had used 37 MB when it was healthy and idle, and was killed for its memory
#: again and again with 32 MiB (target prod, counted by its control group); this leaves as much again for requests. A
#: model server is idle with less, and needs more with any model.
LEAST_MEMORY = 64 * 1024**2
#: Processors: the least that the engine takes.
LEAST_PROCESSORS = 0.01
#: Processors of the model server where nobody says how many, as compose/compose.yaml has it.
USUAL_PROCESSORS = 4
#: Models that may be loaded at a time, as the API takes it (llm_call.api.local.options).
MOST_LOADED = 64
#: Whole numbers by name, with the least, the most and what to write. llama-server reads the context into a C int, and
#: takes 0 for all that a model can.
WHOLE = {
    "LOCAL_LLM_CONTEXT": (0, 2**31 - 1, "write a number of tokens, such as 8192; 0 is all that a model can"),
    "LLM_CALL_LOCAL_MODELS_LOADED": (1, MOST_LOADED, f"write a whole number from 1 to {MOST_LOADED}, such as 2"),
}
#: As the engine's client reads sizes (github.com/docker/go-units, RAMInBytes).
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:b|([kmgtp])(?:i?b)?)?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_PORT = "write a number from 1 to 65535"


@dataclass(frozen=True)
class Published:
    """A port of the host that a service wants; ``variable`` is the one that moves it, ``written`` what stands there."""

    service: str
    address: str
    port: int
    variable: str
    written: str = ""


def faults(selection: Selection, settings: Mapping[str, str]) -> Iterator[Fault]:
    """What is wrong in the settings whatever the machine has; one that is empty has its default."""
    for name, (least, most, hint) in WHOLE.items():
        text = settings.get(name)
        if text and not _whole(text, least, most):
            yield Fault(f".env: {name}", f'"{text}" is no number that can be', hint)
    for name in dict.fromkeys(MEMORY.values()):
        if text := settings.get(name):
            yield from _memory(name, text)
    for name in PROCESSORS.values():
        text = settings.get(name)
        if text and not (_NUMBER.fullmatch(text) and isfinite(float(text)) and float(text) >= LEAST_PROCESSORS):
            hint = f"write a number such as 2 or 1.5, {LEAST_PROCESSORS} at least"
            yield Fault(f".env: {name}", f'"{text}" is no number of processors', hint)
    away = {"debug-ports"} if selection.overlay == "prod" else set()
    away |= set() if "monitoring" in selection.add_ons else {"prometheus"}
    for (service, _), name in PORTS.items():
        text = settings.get(name)
        if text and service not in away and not _whole(text, 1, 65535):
            yield Fault(f".env: {name}", f'"{text}" is not a port', _PORT)


def size(text: str) -> int | None:
    """Bytes that a size such as ``512m`` or ``1.5 GiB`` comes to; None for what is none."""
    found = _SIZE.fullmatch(text)
    return int(float(found[1]) * 1024 ** " kmgtp".index((found[2] or " ").lower())) if found else None


def usual_processors(there: int) -> dict[str, str]:
    """What Compose fills in for the model server where nobody says how many: its usual number, or all of an engine with fewer.

    0 stands for a number that nobody knows; then Compose has its own.
    """
    return {PROCESSORS["ollama"]: str(min(USUAL_PROCESSORS, there))} if there else {}


def beyond(config: Mapping[str, Any], settings: Mapping[str, str], processors: int, memory: int) -> list[Fault]:
    """Services of a configuration that may use more processors, or are given more memory (bytes), than there are.

    0 stands for a number that nobody knows. A limit of memory that nobody has chosen is no promise.
    """
    found = []
    for name, service in sorted(config["services"].items()):
        if processors and float(service.get("cpus") or 0) > processors:
            hint = _write(PROCESSORS.get(name), f"{processors}") or f"give it {processors} at most"
            found.append(Fault(f"services.{name}.cpus", f"{service['cpus']} are more than the engine has", hint))
        variable = MEMORY.get(name)
        given = int(service.get("mem_limit") or 0)
        if memory and variable and settings.get(variable) and given > memory:
            problem = f"{_mebibytes(given)} are more than the engine's machine has"
            found.append(Fault(f"services.{name}.mem_limit", problem, _write(variable, _mebibytes(memory), " or less")))
    return found


def ports(config: Mapping[str, Any]) -> list[Fault]:
    """Published ports of a configuration that are none, or else those that several ask for."""
    asked = wanted(config)
    found = [
        Fault(f".env: {each.variable}", f'"{each.written}" is not a port', _PORT)
        for each in asked
        if not _whole(each.written, 1, 65535)
    ]
    return found or equal(asked)


def wanted(config: Mapping[str, Any]) -> list[Published]:
    """The ports that a configuration publishes; 0 stands for what is none."""
    return [
        Published(
            name,
            port.get("host_ip", ""),
            int(text) if text.isascii() and text.isdecimal() else 0,
            PORTS.get((name, port["target"]), "its port"),
            text,
        )
        for name, service in config["services"].items()
        for port in service.get("ports") or ()
        for text in [str(port.get("published", ""))]
    ]


def equal(wanted: Iterable[Published]) -> list[Fault]:
    """Ports that several ask for at the same address: only one of them could have it."""
    found = []
    for each, other in combinations(wanted, 2):
        everywhere = {"", "0.0.0.0", "::"} & {each.address, other.address}
        if each.port == other.port and (each.address == other.address or everywhere):
            names = dict.fromkeys((each.variable, other.variable))
            found.append(Fault(f".env: {', '.join(names)}", f"are both {each.port}", "give each a port of its own"))
    return found


def _memory(name: str, text: str) -> Iterator[Fault]:
    given = size(text)
    if given is None:
        yield Fault(f".env: {name}", f'"{text}" is no size of memory', "write for example 512m or 8g")
    elif given < LEAST_MEMORY:
        hint = f"write {_mebibytes(LEAST_MEMORY)} at least, for example 512m or 8g"
        yield Fault(f".env: {name}", f'"{text}" is too little for the service', hint)


def _whole(text: str, least: int, most: int) -> bool:
    return text.isascii() and text.isdecimal() and least <= int(text) <= most


def _write(variable: str | None, value: str, more: str = "") -> str:
    return f"write {variable}={value}{more} into .env" if variable else ""


def _mebibytes(count: int) -> str:
    return f"{count // 1024**2}m"
