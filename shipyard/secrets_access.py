"""Who may read and change ``secrets/``, and what lies there that no service reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from shipyard import secrets
from shipyard.models import Fault, Project
from shipyard.names import perhaps
from shipyard.run import run
from shipyard.secrets import CLIENT, NO_FOLDER, READERS

INIT = "`invoke secrets.init` puts it right"
#: The folder of the key that signs releases: no service reads it, and a release judges it itself.
SIGNING = "signing"
_NOT_OURS = "chown it, or make it anew"


def faults(project: Project, known: Collection[str]) -> list[Fault]:
    """Everything wrong with places, owners and modes. ``known`` are the files that somebody reads."""
    place = secrets.folder(project)
    found = [*_strangers(place, known), *_folder(place, "secrets/", None, _trusted(project))]
    for name in READERS:
        if (place / name).is_dir():
            found += _folder(place / name, f"secrets/{name}/", READERS[name], _trusted(project))
    for name in sorted(known):
        group = READERS.get(name.partition("/")[0]) if "/" in name else None
        found += _file(place / name, f"secrets/{name}", group, _trusted(project))
    return [*found, *_git(project.root)]


def _trusted(project: Project) -> set[int]:
    """Who may own a secret: root, who asks, and the owner of the checkout."""
    return {0, os.geteuid(), project.root.stat().st_uid}


def _strangers(place: Path, known: Collection[str]) -> Iterator[Fault]:
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if name.partition("/")[0] == SIGNING or any(
            str(each.relative_to(place)) in known for each in _within(path, place)
        ):
            continue
        if name in READERS and (path.is_symlink() or path.is_file()):
            yield Fault(f"secrets/{name}", *NO_FOLDER)
        elif path.is_dir() and not path.is_symlink():
            if name not in READERS:
                yield Fault(f"secrets/{name}/", "no service reads it", perhaps(name, READERS))
        elif path.name.startswith(".") and path.name.endswith(".new"):
            yield Fault(f"secrets/{name}", "was left by a command that was interrupted", "remove it")
        elif name not in known and not (name.startswith("redis/") and name.endswith(".conf")):
            yield Fault(f"secrets/{name}", "no service reads it", f"{perhaps(name, known)}; or remove it")


def _within(path: Path, place: Path) -> Iterator[Path]:
    """The folders on the way to it, itself among them where it is one: what is wrong with one is told once, for all in it."""
    for each in (path, *path.parents):
        if each == place:
            return
        if each.is_dir() and not each.is_symlink():
            yield each


def _folder(path: Path, name: str, group: int | None, trusted: set[int]) -> Iterator[Fault]:
    status = path.stat()
    if status.st_uid not in trusted:
        yield Fault(name, f"belongs to user {status.st_uid}, who can exchange what is in it", _NOT_OURS)
    if status.st_mode & 0o022:
        yield Fault(name, "others than its owner may write to it", f"chmod go-w {name}")
    if group and _closed(status, group, 0o050, 0o005):
        yield Fault(name, f"the service (group {group}) cannot enter it", INIT)
    if group and os.geteuid() == 0 and status.st_mode & 0o007:
        yield Fault(name, "is open to everyone on this machine", INIT)


def _file(path: Path, name: str, group: int | None, trusted: set[int]) -> Iterator[Fault]:
    if path.is_symlink():
        yield Fault(name, "is a link, which leads nowhere inside the container", "put the file itself there")
        return
    if not path.is_file():
        return
    status = path.stat()
    if status.st_uid not in trusted:
        yield Fault(name, f"belongs to user {status.st_uid}, who can change it", _NOT_OURS)
    if status.st_mode & 0o022:
        yield Fault(name, "others than its owner may write to it", f"chmod go-w {name}")
    if name == f"secrets/{CLIENT.plain}" and status.st_mode & 0o077:
        yield Fault(name, "others than its owner may read it", f"chmod 400 {name}")
    if group and _closed(status, group, 0o040, 0o004):
        yield Fault(name, f"the service (group {group}) cannot read it", INIT)
    if group and os.geteuid() == 0 and status.st_mode & 0o007:
        yield Fault(name, "everyone on this machine may read it", INIT)


def _closed(status: os.stat_result, group: int, of_group: int, of_others: int) -> bool:
    """Whether a process of the service's own user and group is kept out; the group's bits count for its members alone."""
    needed = of_group if status.st_gid == group else of_others
    return status.st_mode & needed != needed


def _git(root: Path) -> Iterator[Fault]:
    """What git knows of secrets. Outside a checkout there is nothing to say."""
    tracked = run(["git", "ls-files", "-z", "--", "secrets"], cwd=root, check=False, timeout=30)
    if tracked.status:
        return
    for name in filter(None, tracked.stdout.split("\0")):
        hint = f"git rm --cached {name}, and make the secret anew: it is in the history"
        yield Fault(name, "is tracked by git", hint)
    if (
        run(["git", "check-ignore", "--quiet", "--no-index", "secrets/x"], cwd=root, check=False, timeout=30).status
        == 1
    ):
        yield Fault(".gitignore", "does not leave out secrets/", "add the line secrets/")
