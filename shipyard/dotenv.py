"""The ``.env`` of a checkout: what the toolkit knows goes in, what the user wrote stays."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from shipyard.errors import ConfigError
from shipyard.machine import replace
from shipyard.models import Fault, Project

#: What follows an opening quote in a value, up to the one that ends it.
_CLOSED = {quote: re.compile(rf"(?:[^\\{quote}]|\\.)*{quote}", re.DOTALL) for quote in "'\""}
_HEADER = "# Read by docker compose. The toolkit keeps the first two; add your own lines (ports, addresses) below.\n"


def project_name(root: Path) -> str:
    """A Compose project name of this checkout's own, so that clones on one engine do not share containers or volumes."""
    return "llm-call-" + hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]


def write(project: Project) -> dict[str, str]:
    """Bring ``.env`` up to date and return everything it says. Raises ConfigError for what Compose could not read either."""
    path = project.root / ".env"
    text = read(project.root)
    if wrong := faults(text):
        raise ConfigError(wrong)
    lines = text.splitlines() if path.exists() else _HEADER.splitlines()
    current = parse(text)
    known = {"COMPOSE_PROJECT_NAME": project_name(project.root), "LLM_CALL_VERSION": project.version}
    missing = {key: value for key, value in known.items() if current.get(key) != value}
    if missing or not path.exists():
        kept = [line for line in lines if _name(line) not in missing]
        added = [f"{key}={value}" for key, value in missing.items()]
        top = 1 if kept and kept[0].startswith("#") else 0
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        replace(path, "\n".join([*kept[:top], *added, *kept[top:]]) + "\n", mode)
    # Plain `docker compose -f compose/compose.yaml` looks for it beside that file.
    beside = project.root / "compose/.env"
    if beside.parent.is_dir() and not os.path.lexists(beside):
        beside.symlink_to("../.env")
    return {**current, **known}


def read(root: Path) -> str:
    """The text of the file; empty where there is none. Raises ConfigError where something else is in its place."""
    try:
        return (root / ".env").read_text("utf-8")
    except FileNotFoundError:
        return ""
    except IsADirectoryError as problem:
        raise ConfigError(
            [Fault(".env", "is a folder, not a file", "move it away; a start writes the file")]
        ) from problem
    except UnicodeDecodeError as problem:
        raise ConfigError([Fault(".env", f"is not text in UTF-8 ({problem.reason})", "save it as that")]) from problem


def faults(text: str) -> list[Fault]:
    """Quotes that never end: Compose takes all that follows for the value, to the end of the file, and refuses it."""
    rest, number = text, 0
    while rest:
        line, _, after = rest.partition("\n")
        number += 1
        value = line.partition("=")[2].strip()
        if not line.lstrip().startswith("#") and value[:1] in ("'", '"'):
            quote = value[0]
            opened = rest.index(quote, rest.index("=")) + 1
            closed = _CLOSED[quote].match(rest, opened)
            if not closed:
                hint = f"end it, or write the value without quotes: {quote} opens one"
                return [Fault(f".env: {_name(line)}", f"line {number} has a quote that never ends", hint)]
            number += rest.count("\n", opened, closed.end())
            after = rest[closed.end() :].partition("\n")[2]
        rest = after
    return []


def parse(text: str) -> dict[str, str]:
    """``KEY=value`` lines; comments and blank lines say nothing. Enough for what is read back here: compose reads it itself."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {_name(key): _value(value) for key, _, value in pairs}


def _value(text: str) -> str:
    """Without quotes, and without a comment that follows, as Compose reads it."""
    bare = text.strip()
    return bare[1:].partition(bare[0])[0] if bare[:1] in ("'", '"') else bare.partition(" #")[0].rstrip()


def _name(line: str) -> str:
    return line.partition("=")[0].strip().removeprefix("export ").strip()
