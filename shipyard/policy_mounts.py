"""What production may mount from the host: a service's own part of the checkout, read-only, and never an engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

#: Who has a folder of its own below secrets/.
SECRETS: Mapping[str, str] = {
    "llm-call-api": "api",
    "claude-proxy": "claude-proxy",
    "egress": "egress",
    "redis": "redis",
    "redis-exporter": "redis-exporter",
}
#: The one file from elsewhere on the host, EGRESS_CA_BUNDLE: who may mount it, and where.
BUNDLE = ("egress", "/run/egress_ca")
#: The one folder from elsewhere, MODELS_FOLDER: who may mount it, and where.
MODELS, MODELS_TARGET = ("llm-call-api", "ollama"), "/models"
#: Sockets of engines by name, and the folders where engines put them.
SOCKETS = ("docker.sock", "containerd.sock", "podman.sock")
SOCKET_FOLDERS = ("/run", "/var/run")


def faults(service: str, volume: Mapping[str, Any], root: Path | None) -> Iterator[tuple[str, str, str]]:
    """What is wrong with one mount of a service: key, problem and hint; the worst of it is enough."""
    target, bound = str(volume.get("target", "")), volume.get("type") == "bind"
    # As the kernel will find it: through "..", and links such as /var/run.
    source = PurePath(os.path.realpath(str(volume.get("source") or "/"))) if bound else PurePath()
    if bound and _engines(source, str(volume.get("source"))):
        yield "volumes", "the engine's socket is the host's root", "leave it out"
    elif bound and root and (problem := _foreign(service, source, target, root)):
        yield "volumes", f"{target}: {problem}", "mount a folder of the checkout that only this service needs"
    elif bound and not volume.get("read_only"):
        yield "volumes", f"{target} is writable on the host", "read_only: true, or a named volume"
    elif target.startswith("/app/src"):
        yield "volumes", "the source is mounted over the image's", "leave it out"


def _engines(source: PurePath, written: str) -> bool:
    """Whether a place on the host is an engine's socket or a folder where one is."""
    folders = {PurePath(each) for folder in SOCKET_FOLDERS for each in (folder, os.path.realpath(folder))}
    above = {each for folder in folders for each in (folder, *folder.parents)}
    return (
        source.name in SOCKETS
        or PurePath(written).name in SOCKETS
        or source in above
        or any(folder in source.parents for folder in folders)
    )


def _foreign(service: str, source: PurePath, target: str, root: Path) -> str:
    """Why a place on the host is not for this service; empty if it is."""
    checkout = PurePath(os.path.realpath(root))
    secrets = checkout / "secrets"
    if source == secrets or source in secrets.parents:
        return "it is the whole of secrets/ or more"
    if secrets in source.parents:
        own = SECRETS.get(service)
        return "" if own and source.is_relative_to(secrets / own) else "it is a secret of others"
    if checkout in source.parents or source == PurePath("/dev/null"):
        return ""
    bundle = (service, target) == BUNDLE and not Path(source).is_dir()
    models = service in MODELS and target == MODELS_TARGET and not Path(source).is_file()
    return "" if bundle or models else "it lies outside the checkout"
