"""The MCP servers that an operator allows: a TOML or JSON file of names, read at start, every fault told at once."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from serving.settings import Env, reason

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
FIELDS = {"stdio": ("type", "command", "args", "env", "ports"), "http": ("type", "url", "headers")}
"""What a server may say; `ports` are those that a local one connects to, the rest is the CLI's own."""


@dataclass(frozen=True)
class Server:
    """One allowed server: what the CLI is told of it, and which URLs and ports it needs."""

    config: dict[str, Any]
    urls: tuple[str, ...] = ()


def read(env: Env, name: str) -> dict[str, Server]:
    """Return the servers of the file that the setting `name` names; notes a fault for each thing that is wrong."""
    path = env.text(name)
    if not path:
        return {}
    try:
        text = Path(path).read_text("utf-8")
        document = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        env.fault(name, f'cannot read {path}: {reason(error)}; give a file such as [docs] command = "/usr/bin/docs"')
        return {}
    if not isinstance(document, dict):
        env.fault(name, f"{path} has to be an object of servers by name")
        return {}
    found = {}
    for server, entry in document.items():
        faults = check(server, entry)
        for fault in faults:
            env.fault(name, f"{path}: {server}: {fault}")
        if not faults:
            found[server] = _server(entry)
    return found


def check(name: str, entry: Any) -> list[str]:
    """Return what is wrong with a server."""
    if not NAME.fullmatch(name):
        return ["a name has letters, digits, _ and - only, 64 at most"]
    if not isinstance(entry, dict):
        return ["has to be an object with a command, or with a type and a url"]
    kind = entry.get("type", "stdio")
    if kind not in FIELDS:
        return [f'type "{kind}" is none of {", ".join(FIELDS)}']
    faults = [_unknown(field, kind) for field in entry if field not in FIELDS[kind]]
    if kind == "http" and not _url(entry.get("url")):
        faults.append("url has to begin with http:// or https://")
    if kind == "stdio" and not (isinstance(entry.get("command"), str) and entry["command"].startswith("/")):
        faults.append('command has to be the absolute path of a program; for example "/usr/bin/python3"')
    if not _strings(entry.get("args", [])):
        faults.append("args has to be a list of strings")
    faults += [f"{each} has to be an object of strings" for each in ("env", "headers") if not _table(entry.get(each))]
    if not _ports(entry.get("ports", [])):
        faults.append("ports has to be a list of numbers from 1 to 65535")
    return faults


def document(servers: dict[str, Server]) -> bytes:
    """Return the file that `--mcp-config` takes."""
    return orjson.dumps({"mcpServers": {name: server.config for name, server in servers.items()}})


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return a hint about what may have been meant, or which names there are."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f'perhaps you meant "{near[0]}"' if near else f"there is {', '.join(known) or 'none'}"


def _server(entry: dict[str, Any]) -> Server:
    config = {name: value for name, value in entry.items() if name != "ports"}
    urls = [entry["url"]] if "url" in entry else [f"tcp://localhost:{port}" for port in entry.get("ports", [])]
    return Server({"type": "stdio", **config}, tuple(urls))


def _unknown(field: str, kind: str) -> str:
    return f'"{field}" is no field of a {kind} server; {nearest(field, FIELDS[kind])}'


def _url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _table(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(each, str) for each in value.values()))


def _ports(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 < each < 65536 for each in value)
