"""Secrets as files below ``secrets/``: what can be generated is, what only a provider can give stays an empty file.

Services get files, never variables: one folder each, mounted whole, so that an editor that replaces a file (most do)
changes it for the service too. Keys that clients present are stored as SHA-256 digests (``name:hex``); the key itself is
kept once, for the owner's eyes only, in ``secrets/client_key``, which no container mounts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from shipyard.machine import replace
from shipyard.models import Project

#: The folder of each service that reads secrets, and its group inside the image (docker/*/Dockerfile).
READERS = {"api": 10001, "claude-proxy": 10001, "egress": 10003}
#: What ``secrets.init`` leaves empty, with what it is for.
PROVIDED = {
    "egress/anthropic_api_key": "what the egress gateway shows for the Claude CLI: an API key, or a token of `claude setup-token`",
    "api/openai_api_key": "for models of the upstream openai",
    "api/google_api_key": "for models of the upstream google",
    "api/deepseek_api_key": "for models of the upstream deepseek",
    "api/perplexity_api_key": "for models of the upstream perplexity",
}


@dataclass(frozen=True)
class Made:
    """What ``init`` did: names of new files, and the client key if it is new (shown once)."""

    created: tuple[str, ...]
    client_key: str | None


def folder(project: Project) -> Path:
    """Where the secrets of this checkout lie."""
    return project.root / "secrets"


def init(project: Project) -> Made:
    """Create what is missing and leave what exists, but for who may read it; every file is whole or absent."""
    place = folder(project)
    place.mkdir(mode=0o755, exist_ok=True)
    for name in READERS:
        (place / name).mkdir(exist_ok=True)
    _move_in(place)
    created: list[str] = []
    client = _keys(place, "client_key", "api/api_keys", "client", created)
    _keys(place, "api/claude_proxy_key", "claude-proxy/claude_proxy_keys", "llm-call-api", created)
    for name in PROVIDED:
        _write(place, name, "", created)
    for name in READERS:
        _let_in(place / name, created)
    return Made(tuple(created), client)


def _keys(place: Path, plain: str, hashed: str, owner: str, created: list[str]) -> str | None:
    """A random key and the file of its digest; the pair is made together or not at all."""
    if (place / plain).exists() and (place / hashed).exists():
        return None
    key = "llmc-" + secrets.token_urlsafe(32)
    for name in (plain, hashed):
        (place / name).unlink(missing_ok=True)
    _write(place, hashed, f"{owner}:{hashlib.sha256(key.encode()).hexdigest()}\n", created)
    _write(place, plain, key + "\n", created)
    return key


def _write(place: Path, name: str, text: str, created: list[str]) -> None:
    if not (place / name).exists():
        replace(place / name, text, 0o400)
        created.append(name)


def _let_in(folder: Path, created: list[str]) -> None:
    """Open a service's folder to its group alone: Compose passes modes and owners of the host through."""
    if os.geteuid() == 0:
        # An editor or `cp` may have left a file to root alone.
        for path in (folder, *folder.iterdir()):
            os.chown(path, 0, READERS[folder.name])
            path.chmod(0o750 if path == folder else 0o440)
        return
    # Without root no other group can be given; what its owner closed later stays closed.
    folder.chmod(0o755)
    for path in folder.iterdir():
        if f"{folder.name}/{path.name}" in created:
            path.chmod(0o444)


def _move_in(place: Path) -> None:
    """Take over the files of a checkout that had them all in one folder."""
    for name in ("api/api_keys", "api/claude_proxy_key", "claude-proxy/claude_proxy_keys", *PROVIDED):
        earlier = place / Path(name).name
        if earlier.is_file() and not (place / name).exists():
            earlier.rename(place / name)
