"""The folder of model files as services will find it: where it lies, and what in it they could not read."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from shipyard.models import Fault, Project

FOLDER, PRESETS = "MODELS_FOLDER", "LOCAL_LLM_PRESETS"
#: Where services have the folder.
INSIDE = PurePosixPath("/models")
#: What a model file's name ends with.
SUFFIX = ".gguf"
#: Folders of the system (Filesystem Hierarchy Standard 3.0) that are no place for models, nor is anything in them.
SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/lib")
#: Folders that are too much by themselves: a folder in them may hold models.
ROOTS = ("/", "/home", "/opt", "/root", "/run", "/tmp", "/usr", "/usr/local", "/usr/share", "/var", "/var/lib")
#: The part of a system's folder that is free for everybody: files in memory.
FREE = "/dev/shm"
#: Links that the kernel follows in one path (path_resolution(7)).
MOST_LINKS = 40
#: Paths that a fault names; a person who mends these is told of the next ones.
NAMED = 5


def place(project: Project, settings: Mapping[str, str]) -> Path:
    """Where model files lie on the host; the folder ``models`` of the checkout unless MODELS_FOLDER names another."""
    return Path(settings.get(FOLDER) or project.root / "models")


def faults(project: Project, settings: Mapping[str, str], presets: str = "") -> list[Fault]:
    """What is wrong with the folder and its model files; ``presets`` is the file in it that llama-server is to read.

    A folder of the checkout's own that is missing is none: it is made at the start.
    """
    path, setting = place(project, settings), f".env: {FOLDER}"
    if not settings.get(FOLDER):
        if not os.path.lexists(path):
            return _presets(path, presets)
        if not _is_folder(path):
            kind = "is a link that leads to no folder" if path.is_symlink() else "is no folder"
            return [Fault(str(path), kind, f"remove it, and the start makes it, or name another folder in {setting}")]
    elif not path.is_absolute():
        return [Fault(setting, f'"{path}" is no absolute path', "write for example /srv/models")]
    elif ":" in str(path):
        return [Fault(setting, f'"{path}" has a colon, which the engine takes for the end of a path', "rename it")]
    if kind := _too_much(project, path):
        return [Fault(setting, f"{path} is {kind}", "make a folder for models alone, for example /srv/models")]
    if not _is_folder(path):
        return [Fault(setting, f"{path} is no folder of this machine", "make it, or name another")]
    lacking = _presets(path, presets)
    found = [*_models(path), *([path / presets] if presets and not lacking else [])]
    return [*lacking, *_links(path, found), *_closed(path, found)]


def _too_much(project: Project, path: Path) -> str:
    """What a folder is that no service may have, through links; empty for one that may be for models."""
    real = Path(os.path.realpath(path))
    bound = any(real.is_relative_to(each) for each in SYSTEM) and FREE not in map(str, real.parents)
    if bound or str(real) in ROOTS:
        return "a folder of the system" if real == path else f"{real}, a folder of the system"
    if str(real) == os.path.realpath(Path.home()) or str(real.parent) == "/home":
        return "somebody's home"
    checkout = Path(os.path.realpath(project.root))
    return "the checkout or more, with its secrets" if checkout.is_relative_to(real) else ""


def _presets(path: Path, presets: str) -> list[Fault]:
    if not presets or (_within(presets) and os.path.lexists(path / presets) and not _is_folder(path / presets)):
        return []
    hint = f"write the name of a file there, such as models.ini, or leave {PRESETS} out"
    return [Fault(f".env: {PRESETS}", f"there is no file {presets} in {path}", hint)]


def _within(presets: str) -> bool:
    """Whether a name is one below the folder, which is all that Compose makes of it."""
    return not presets.startswith("/") and ".." not in PurePosixPath(presets).parts


def _models(folder: Path) -> list[Path]:
    """Model files, and links of such a name or to a folder with such files, by name; what vanishes meanwhile is none."""
    found = []
    for here, folders, files in os.walk(folder):
        found += [Path(here, each) for each in files if each.endswith(SUFFIX)]
        found += [each for each in (Path(here, name) for name in folders) if _target(each) and _holds(each)]
    return sorted(found)


def _holds(folder: Path) -> bool:
    """Whether model files lie in a folder itself."""
    with suppress(OSError):
        return any(each.name.endswith(SUFFIX) for each in folder.iterdir())
    return False


def _links(folder: Path, paths: Iterable[Path]) -> Iterator[Fault]:
    """Links that a service cannot follow, for it has this folder alone."""
    for path in paths:
        inside = inner(folder, path)
        if not os.path.lexists(path) or (inside and _mode(inside)):
            continue
        real = Path(os.path.realpath(path))
        if not _mode(real):
            yield Fault(str(path), "is a link that leads nowhere", "remove it, or put the file in its place")
            continue
        command = shlex.join(("cp", "--remove-destination", "--", str(real), str(path)))
        copied = "put a copy in its place" if _is_folder(real) else f"`{command}` puts a copy in its place"
        there = real if _is_folder(real) else real.parent
        hint = f"{copied}, or set {FOLDER} to {there}; relative links within the folder work"
        yield Fault(str(path), f"is a link to {real}, which services cannot follow: they have {folder} alone", hint)


def inner(folder: Path, path: Path) -> Path | None:
    """The place below ``folder`` that a path in it comes to for a service, which has the folder as /models and nothing else.

    None where it leads out or in circles.
    """
    done: list[str] = []
    ahead = [*reversed(path.relative_to(folder).parts), *reversed(INSIDE.parts[1:])]
    links = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            done = done[:-1]
            continue
        done.append(part)
        if done[0] != INSIDE.name:
            return None
        here = folder.joinpath(*done[1:])
        if len(done) > 1 and (target := _target(here)):
            links += 1
            if links > MOST_LINKS:
                return None
            done = [] if target.is_absolute() else done[:-1]
            ahead += [each for each in reversed(target.parts) if each != "/"]
    return folder.joinpath(*done[1:]) if done else None


def _closed(folder: Path, paths: Iterable[Path]) -> list[Fault]:
    """Model files that others may not read, and folders on the way to them."""
    wanted: dict[Path, None] = {folder: None}
    for path in paths:
        found = inner(folder, path)
        if found and _mode(found):
            above = [each for each in found.parents if each.is_relative_to(folder)]
            wanted.update(dict.fromkeys([*reversed(above), found]))
    closed = [each for each in wanted if not _readable(each)]
    if not closed:
        return []
    more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
    command = shlex.join(("chmod", "go+rX", "--", *map(str, closed[:NAMED])))
    rest = f", and so on for {len(closed) - NAMED} more" if len(closed) > NAMED else ""
    hint = f"the services run as a user of their own; `{command}`{rest}"
    return [Fault(str(closed[0]) + more, "is not readable by others", hint)]


def _readable(path: Path) -> bool:
    """Whether everybody may read a file, or enter a folder; one that has vanished is nobody's fault."""
    mode = _mode(path)
    wanted = 0o005 if stat.S_ISDIR(mode) else 0o004
    return not mode or mode & wanted == wanted


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """Kind and mode of what a path leads to; 0 where there is nothing, or nothing to be seen from here."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


def _target(path: Path) -> PurePosixPath | None:
    """What a link says; None for everything else."""
    with suppress(OSError):
        return PurePosixPath(path.readlink())
    return None
