"""What an image is built from, and the hash of it. Pure functions over a checkout's files; nothing is started.

The files that matter are read off the Dockerfile itself: the sources of ``COPY``, ``ADD`` and of bind mounts that come
from the build context. So there is no second list that could drift from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from shipyard.errors import ConfigError
from shipyard.models import Fault

#: Part of every hash; raised when the way images are built changes so that old images no longer count.
FORMAT = "1"

_MOUNT = re.compile(r"--mount=(\S+)")


def instructions(dockerfile: str) -> list[str]:
    """The Dockerfile's instructions, one string each: continued lines joined, comments and heredoc bodies left out."""
    found: list[str] = []
    pending, heredoc = "", ""
    for line in dockerfile.splitlines():
        if heredoc:
            heredoc = "" if line.strip() == heredoc else heredoc
            continue
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        pending += line.rstrip("\\").rstrip() if line.rstrip().endswith("\\") else line
        if line.rstrip().endswith("\\"):
            pending += " "
            continue
        opened = re.search(r"<<-?[\"']?(\w+)[\"']?", pending)
        heredoc = opened[1] if opened else ""
        found.append(pending.strip())
        pending = ""
    return found


def sources(dockerfile: str, place: str) -> list[str]:
    """Relative paths in the build context that the Dockerfile reads. Raises ConfigError for one with a variable."""
    found: dict[str, None] = {}
    for instruction in instructions(dockerfile):
        word, _, rest = instruction.partition(" ")
        if word.upper() in ("COPY", "ADD") and not re.search(r"--from=", rest):
            found.update(dict.fromkeys(_copied(rest)))
        elif word.upper() == "RUN":
            found.update(dict.fromkeys(_mounted(rest)))
    faults = [
        Fault(
            place,
            f'source "{path}" has a variable or wildcard',
            "name a file or folder literally, so that it can be hashed",
        )
        for path in found
        if re.search(r"[$*?\[]", path)
    ]
    if faults:
        raise ConfigError(faults)
    return [path.removeprefix("./").strip("/") or "." for path in found]


def _copied(rest: str) -> list[str]:
    words = [word for word in rest.split() if not word.startswith("--")]
    if words and words[0].startswith("["):
        words = json.loads(" ".join(words))
    return [word for word in words[:-1] if not word.startswith("<<")]


def _mounted(rest: str) -> list[str]:
    found = []
    for mount in _MOUNT.findall(rest):
        options = dict(part.partition("=")[::2] for part in mount.split(","))
        if options.get("type", "bind") == "bind" and "from" not in options:
            found.append(options.get("source") or options.get("src") or ".")
    return found


def ignored(path: str, patterns: Iterable[str]) -> bool:
    """Whether ``.dockerignore`` leaves ``path`` out: the last pattern that matches it, or a folder above it, decides."""
    verdict = False
    for pattern in patterns:
        negated, body = pattern.startswith("!"), pattern.lstrip("!").strip("/")
        if _matcher(body).match(path):
            verdict = not negated
    return verdict


def _matcher(pattern: str) -> re.Pattern[str]:
    """Docker's pattern language (Go's filepath.Match plus ``**``) as a regular expression over a path or its parents."""
    expression = ""
    for token in re.findall(r"\*\*/?|\*|\?|\[[^\]]*\]|.", pattern):
        expression += {"**/": r"(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(
            token, token if token.startswith("[") and len(token) > 1 else re.escape(token)
        )
    return re.compile(expression + r"(?:/.*)?\Z")


def ignore_patterns(root: Path) -> list[str]:
    """The lines of the context's ``.dockerignore`` that say something."""
    try:
        lines = (root / ".dockerignore").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def digests(root: Path, context: str, dockerfile: str) -> dict[str, str]:
    """Every file that matters, by its path from ``root``, with the hash of its content, its kind and whether it is executable.

    Times, owners and other permission bits do not count: a touch, a clone or another umask changes nothing.
    """
    folder = root / context
    patterns = ignore_patterns(folder)
    found = {dockerfile: digest(root / dockerfile)}
    for source in sources((root / dockerfile).read_text(), dockerfile):
        for path in _files(folder / source):
            if not ignored(path.relative_to(folder).as_posix(), patterns):
                found[path.relative_to(root).as_posix()] = digest(path)
    return dict(sorted(found.items()))


def _files(path: Path) -> Iterable[Path]:
    if path.is_symlink() or not path.is_dir():
        return [path] if path.exists() or path.is_symlink() else []
    return [item for item in path.rglob("*") if item.is_symlink() or item.is_file()]


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of SHA-256 over a file's content, with ``x`` in front when it is executable."""
    if path.is_symlink():
        return "l" + hashlib.sha256(str(path.readlink()).encode()).hexdigest()[:16]
    mark = "x" if path.stat().st_mode & 0o100 else ""
    return mark + hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def combine(files: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """The input hash: SHA-256 over files and settings, independent of their order."""
    document = json.dumps([FORMAT, dict(sorted(files.items())), dict(sorted(settings.items()))], separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """``changed``, ``added`` and ``removed`` files, one line each, sorted by path."""
    lines = []
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            kind = "added" if path not in before else "removed" if path not in after else "changed"
            lines.append(f"{kind} {path}")
    return lines
