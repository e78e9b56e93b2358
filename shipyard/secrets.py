"""Secrets as files below ``secrets/``: what can be generated is, what only a provider can give stays an empty file.

Services get files, never variables. Keys that clients present are stored as SHA-256 digests (``name:hex``); the key
itself is kept once, for the owner's eyes only, in ``secrets/client_key``, which no container mounts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from shipyard.machine import replace
from shipyard.models import Project

#: The services' user and group inside the images (docker/api/Dockerfile and docker/claude-proxy/Dockerfile).
SERVICE_ID = 10001
#: The egress gateway's (docker/egress/Dockerfile).
EGRESS_ID = 10003

#: What ``secrets.init`` leaves empty, with what it is for.
PROVIDED = {
    "anthropic_api_key": "what the egress gateway shows for the Claude CLI: an API key, or a token of `claude setup-token`",
    "openai_api_key": "for models of the upstream openai",
    "google_api_key": "for models of the upstream google",
    "deepseek_api_key": "for models of the upstream deepseek",
    "perplexity_api_key": "for models of the upstream perplexity",
}
#: The group that reads each file which a container mounts; the services' where none is named.
_READERS = {"anthropic_api_key": EGRESS_ID}


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
    created: list[str] = []
    client = _keys(place, "client_key", "api_keys", "client", created)
    _keys(place, "claude_proxy_key", "claude_proxy_keys", "llm-call-api", created)
    for name in PROVIDED:
        _write(place / name, "", created, shared=True)
        if os.geteuid() == 0:
            _let_in(place / name)  # an editor or `cp` may have left it to root alone
    return Made(tuple(created), client)


def _keys(place: Path, plain: str, hashed: str, owner: str, created: list[str]) -> str | None:
    """A random key and the file of its digest; the pair is made together or not at all."""
    if (place / plain).exists() and (place / hashed).exists():
        return None
    key = "llmc-" + secrets.token_urlsafe(32)
    shared = plain != "client_key"
    for name in (plain, hashed):
        (place / name).unlink(missing_ok=True)
    _write(place / hashed, f"{owner}:{hashlib.sha256(key.encode()).hexdigest()}\n", created, shared=True)
    _write(place / plain, key + "\n", created, shared=shared)
    return key


def _write(path: Path, text: str, created: list[str], *, shared: bool) -> None:
    if path.exists():
        return
    replace(path, text, 0o440 if shared else 0o400)
    if shared:
        _let_in(path)
    created.append(path.name)


def _let_in(path: Path) -> None:
    """Mode 0440 with its reader's group: Compose passes modes and owners of the host through."""
    if os.geteuid() == 0:
        os.chown(path, 0, _READERS.get(path.name, SERVICE_ID))
        path.chmod(0o440)  # whatever the umask left of it
    else:
        path.chmod(0o444)  # without root no other group can be given
