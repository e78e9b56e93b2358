"""How the engine's daemon was started, where it runs on this machine: some of that /info does not tell."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: struct ucred of <sys/socket.h>: process, user, group.
_PEER = "3i"
#: Where it looks for settings unless a flag names another file (dockerd(8)), and where Debian and Docker keep its number.
_FILE, _NUMBER = "/etc/docker/daemon.json", Path("/var/run/docker.pid")


def settings(host: str) -> Mapping[str, Any]:
    """Its settings as in daemon.json, with those of its command line; empty where it is not ours to look at."""
    for number in _processes(host):
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == "dockerd":
            flags = _flags(words[1:])
            return {**_file(number, str(flags.get("config-file", _FILE))), **flags}
    return {}


def _processes(host: str) -> list[int]:
    """Who listens at the socket; where a service manager made it, the one that has put its number down."""
    found = list[int]()
    if urlsplit(host).scheme != "unix":
        return found
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(3)
            probe.connect(urlsplit(host).path)
            found.append(struct.unpack(_PEER, probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        found.append(int(_NUMBER.read_text()))
    except (OSError, ValueError, AttributeError):  # no such option elsewhere than on Linux
        return found
    return found


def _flags(words: list[str]) -> dict[str, Any]:
    """``--name=value`` and ``--name``; the forms that these settings have."""
    found: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if match := re.fullmatch(r"--([a-z0-9-]+)(?:=(.*))?", word):
            value = match[2] if match[2] is not None else "true" if following.startswith("-") else following
            found[match[1]] = {"true": True, "false": False}.get(value.lower(), value)
    return found


def _file(number: int, name: str) -> dict[str, Any]:
    try:
        # By the daemon's own eyes: it may have another root.
        found = json.loads(Path(f"/proc/{number}/root/{name.lstrip('/')}").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
