"""What an image is built from, and the hash of it. Pure functions over a checkout's files; nothing is started.

The files that matter are read off the Dockerfile itself: the sources of ``COPY``, ``ADD`` and of bind mounts that come
from the build context. So there is no second list that could drift from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from shipyard.errors import ConfigError
from shipyard.models import Fault

#: Part of every hash; raised when the way images are built changes so that old images no longer count.
FORMAT = "1"

_MOUNT = re.compile(r"--mount=(\S+)")
#: BuildKit's parser: a backslash and blanks at a line's end continue it, two backslashes do not.
_CONTINUED = re.compile(r"(?<!\\)\\[ \t]*$")
#: A word such as ``<<EOF``, ``<<-'EOF'`` or ``3<<EOF``; neither ``<<<word`` nor ``$((1<<3))``.
_HEREDOC = re.compile(r"(?<!\S)\d*<<(-?)([\"']?)(\w+)\2(?!\S)")


def instructions(dockerfile: str) -> list[str]:
    """The Dockerfile's instructions, one string each: continued lines joined, comments and heredoc bodies left out."""
    found: list[str] = []
    pending = ""
    heredocs: list[tuple[str, str]] = []
    for line in dockerfile.splitlines():
        if heredocs:
            dash, end = heredocs[0]
            if (line.lstrip("\t") if dash else line) == end:
                heredocs.pop(0)
            continue
        if line.lstrip().startswith("#") or not line.strip():  # neither ends an instruction that goes on
            continue
        pending += _CONTINUED.sub(" ", line)
        if _CONTINUED.search(line):
            continue
        heredocs = [(dash, end) for dash, _, end in _HEREDOC.findall(pending)]
        found.append(pending.strip())
        pending = ""
    return [*found, pending.strip()] if pending else found


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


def locks(dockerfile: str) -> list[str]:
    """The ``debian.lock`` of each image that a Dockerfile takes packages from, another's among them; not the builder's."""
    found = re.findall(r"\bsource=(docker/(?!builder/)[\w-]+/debian\.lock)\b", dockerfile)
    return list(dict.fromkeys(found))


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
        negated, body = pattern.startswith("!"), pattern.removeprefix("!").strip().removeprefix("./").strip("/")
        if _matcher(body).match(path):
            verdict = not negated
    return verdict


@cache
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
        if (target := folder / source).is_symlink():  # COPY and bind mounts follow the link that they name
            for path in _files(target.resolve()):
                if path.is_relative_to(root.resolve()):
                    found[path.relative_to(root.resolve()).as_posix()] = digest(path)
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
