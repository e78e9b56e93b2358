"""What the API on the host was started with: by that a later start knows whether it is still the one that is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shipyard.machine import replace
from shipyard.models import Project

#: The packages below src/ that it is made of, and the file of config/ that it reads at its start.
_CODE, _MODELS = ("llm_call", "serving"), "config/models.toml"


@dataclass(frozen=True)
class Started:
    """``code`` and ``models`` are digests of files; ``environment`` has a digest for each variable, for a person may have
    written a secret into one.
    """

    version: str
    code: str
    models: str
    environment: Mapping[str, str]


def asked(project: Project, environment: Mapping[str, str]) -> Started:
    """What one that is started now is made of; ``environment`` is that of .shipyard/host.env."""
    files = [path for name in _CODE for path in (project.root / "src" / name).rglob("*") if path.is_file()]
    code = "".join(
        f"{path.relative_to(project.root)} {_digest(path.read_bytes())}\n"
        for path in sorted(files)
        if "__pycache__" not in path.parts
    )
    models = project.root / _MODELS
    return Started(
        project.version,
        _digest(code.encode()),
        _digest(models.read_bytes()) if models.is_file() else "",
        {name: _digest(value.encode()) for name, value in sorted(environment.items())},
    )


def differences(before: Started, now: Started) -> list[str]:
    """What is another than before, by the names that a person knows."""
    names = sorted({*before.environment, *now.environment})
    changed = [name for name in names if before.environment.get(name) != now.environment.get(name)]
    return [
        *(["VERSION"] if before.version != now.version else []),
        *(["its code"] if before.code != now.code else []),
        *([_MODELS] if before.models != now.models else []),
        *changed,
    ]


def strays(number: int, environment: Mapping[str, str]) -> list[str]:
    """The variables that a process of a person's does not have as .shipyard/host.env has them; none where it may not be
    looked at.
    """
    try:
        entries = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
    found = dict(entry.decode(errors="surrogateescape").partition("=")[::2] for entry in entries if entry)
    return [name for name, value in sorted(environment.items()) if found.get(name, "") != value]


def read(project: Project) -> dict[int, Started]:
    """The processes that were started and may still run."""
    try:
        document = json.loads(_file(project).read_text())
        return {int(number): Started(**known) for number, known in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep(project: Project, found: Mapping[int, Started]) -> None:
    """Remember exactly these."""
    if found:
        replace(_file(project), json.dumps({number: asdict(known) for number, known in found.items()}))
    else:
        _file(project).unlink(missing_ok=True)


def _file(project: Project) -> Path:
    return project.state / "host-api.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
