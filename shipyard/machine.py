"""Small JSON files that all checkouts of a machine share, written whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from shipyard import signals
from shipyard.engine.types import home


def read(name: str) -> dict[str, Any]:
    """The document, or an empty one when it is absent or was damaged: everything in it can be found out again."""
    try:
        document = json.loads((home() / name).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write(name: str, document: dict[str, Any]) -> None:
    """Replace the document at once: a reader, or a kill in between, sees the old one or the new one."""
    replace(home() / name, json.dumps(document, indent=2) + "\n")


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole or not at all, with ``mode`` from its first moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with signals.held():
        try:
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
