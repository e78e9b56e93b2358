"""The ``.env`` of a checkout: what the toolkit knows goes in, what the user wrote stays."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from shipyard.errors import ConfigError
from shipyard.machine import replace
from shipyard.models import Fault, Project

_HEADER = "# Read by docker compose. The toolkit keeps the first three; add your own lines (ports, addresses) below.\n"
#: All but the last digit of the uids of claude-runner-1 and the others.
UIDS = "CLAUDE_RUNNER_UIDS"
#: A value in quotes, which may go on for several lines; a backslash hides a quote from its end.
_QUOTED = re.compile(r"""(['"])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)


def project_name(root: Path) -> str:
    """A Compose project name of this checkout's own, so that clones on one engine do not share containers or volumes."""
    return "llm-call-" + hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]


def runner_uids(root: Path) -> str:
    """All but the last digit of the runners' uids, of this checkout's own where no line of ``.env`` says another: the kernel
    counts what a user takes on the whole machine."""
    return str(2000 + int(hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8], 16) % 3999)


def write(project: Project) -> dict[str, str]:
    """Bring ``.env`` up to date and return everything it says. Raises ConfigError for what Compose could not read either."""
    path = project.root / ".env"
    text = read(project.root)
    if wrong := faults(text):
        raise ConfigError(wrong)
    lines = text.splitlines() if path.exists() else _HEADER.splitlines()
    current = parse(text)
    known = {"COMPOSE_PROJECT_NAME": project_name(project.root), "LLM_CALL_VERSION": project.version}
    usual = {UIDS: runner_uids(project.root), **{key: value for key, value in current.items() if key == UIDS and value}}
    known |= usual
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
    """What Compose could not read either: quotes that do not end, or end at the beginning of another one."""
    return list(_faults(text))


def parse(text: str) -> dict[str, str]:
    """``KEY=value`` lines; comments and blank lines say nothing. Enough for what is read back here: compose reads it itself."""
    return {name: _value(value) for _, name, value in _entries(text)}


def filled(project: Project) -> set[str]:
    """Names whose values Compose changes before it takes them, for their ``$``, and that no variable of the environment hides.

    In double quotes it changes backslashes, too.
    """
    written = {name: value for _, name, value in _entries(read(project.root))}
    found = {name for name, value in written.items() if value[:1] != "'" and "$" in _value(value)}
    found |= {name for name, value in written.items() if value[:1] == '"' and "\\" in _value(value)}
    return found - set(os.environ)


def _entries(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and value with its quotes; one whose quote ends on a later line has all the lines until there."""
    lines, number = text.splitlines(), 0
    while number < len(lines):
        line, number = lines[number], number + 1
        if "=" not in line or line.lstrip().startswith("#"):
            continue
        begun, value = number, line.partition("=")[2].strip()
        if value[:1] in ("'", '"') and (end := _QUOTED.match("\n".join([value, *lines[number:]]))):
            more = end[0].count("\n")
            value, number = "\n".join([value, *lines[number : number + more]]), number + more
        yield begun, _name(line), value


def _faults(text: str) -> Iterator[Fault]:
    for line, name, value in _entries(text):
        end = _QUOTED.match(value)
        rest = value[end.end() :].strip() if end else value
        if value[:1] in ("'", '"') and (not end or ("\n" in end[0] and rest and not rest.startswith("#"))):
            yield Fault(f".env: line {line}", f"the quote before the value of {name} does not end", "close it")


def _value(text: str) -> str:
    """Without quotes, and without a comment that follows, as Compose reads it."""
    bare = text.strip()
    return bare[1:].partition(bare[0])[0] if bare[:1] in ("'", '"') else bare.partition(" #")[0].rstrip()


def _name(line: str) -> str:
    return line.partition("=")[0].strip().removeprefix("export ").strip()
