"""Secrets as files below ``secrets/``: what can be generated is, what only a provider can give stays an empty file.

Services get files, never variables: one folder each, mounted whole, so that an editor that replaces a file (most do)
changes it for the service too. Keys that clients present are stored as SHA-256 digests (``name:hex``); the key itself is
kept once, for the owner's eyes only, in ``secrets/client_key``, which no container mounts.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipyard import acl, console, signals
from shipyard.engine import lock
from shipyard.errors import ConfigError
from shipyard.machine import replace
from shipyard.models import Fault, Project

#: The folder of each service that reads secrets, and its group inside the image (docker/*/Dockerfile).
READERS = {"api": 10001, "claude-proxy": 10004, "egress": 10003, "redis": 10002, "redis-exporter": 10007}
#: What ``secrets.init`` leaves empty, with what it is for.
PROVIDED = {
    "egress/anthropic_api_key": "what the egress gateway shows for the Claude CLI: an API key, or a token of `claude setup-token`",
    "api/openai_api_key": "for models of the upstream openai",
    "api/google_api_key": "for models of the upstream google",
    "api/deepseek_api_key": "for models of the upstream deepseek",
    "api/perplexity_api_key": "for models of the upstream perplexity",
}
#: Where each user of Redis has its password, and where their digests are.
PASSWORDS = {acl.API: "api/redis_password", acl.EXPORTER: "redis-exporter/redis_passwords.json"}
USERS_CONF = "redis/users.conf"
#: Ends the name of a key that a rotation is about to end (shipyard/rotation.py), and the comment that ends its line.
OLD, MARK = "-old", "# the earlier key: `invoke secrets.rotate ... --finish` ends it"


@dataclass(frozen=True)
class Pair:
    """A key in one file, and in another one the line with its digest, which has a name."""

    plain: str
    digests: str
    name: str


#: What is wrong with a file in the place of secrets/ itself.
NO_ROOM = ("is a file, not a folder", "move it away; `invoke secrets.init` makes the folder")
#: What is wrong with bytes that are not UTF-8, and with a service's folder that is none; and what to try.
NOT_TEXT = ("is not text", "write it anew, in UTF-8")
NO_FILE = ("is a folder, not a file", "move it away; `invoke secrets.init` makes what it can")
NO_FOLDER = ("is a link or a file, not a folder", "remove it, and put the folder itself there")
CLIENT = Pair("client_key", "api/api_keys", "client")
CLAUDE_PROXY = Pair("api/claude_proxy_key", "claude-proxy/claude_proxy_keys", "llm-call-api")


@dataclass(frozen=True)
class Made:
    """What ``init`` did: names of new files, and the client key if it is new (shown once)."""

    created: tuple[str, ...]
    client_key: str | None


def folder(project: Project) -> Path:
    """Where the secrets of this checkout lie."""
    return project.root / "secrets"


def init(project: Project) -> Made:
    """Create what is missing and leave what exists, but for who may read it; every file is whole or absent.

    Raises ConfigError when they belong to somebody else, a folder is a link, or what has to be read is not text.
    """
    with alone(project):
        try:
            return _init(folder(project))
        except PermissionError as refused:
            raise _closed(project, refused) from refused


def _closed(project: Project, refused: PermissionError) -> ConfigError:
    name = Path(refused.filename).relative_to(project.root)
    return ConfigError([Fault(str(name), str(refused.strerror), "run this as the owner of secrets/, or as root")])


def _init(place: Path) -> Made:
    place.mkdir(mode=0o755, exist_ok=True)
    for name in READERS:
        (place / name).mkdir(exist_ok=True)
    _move_in(place)
    created: list[str] = []
    client = _keys(place, CLIENT, created)
    _keys(place, CLAUDE_PROXY, created)
    _redis_users(place, created)
    for name in PROVIDED:
        if not (place / name).exists():
            _create(place, name, "", created)
    for name in READERS:
        _let_in(place / name)
    return Made(tuple(created), client)


@contextmanager
def alone(project: Project) -> Iterator[None]:
    """Hold the lock of this checkout's secrets: two that make or change keys at once would not leave pairs.

    Raises ConfigError when a service's folder is a link or a file, for what is written there would lie somewhere else; and
    when it may not be looked at.
    """
    with lock("changing secrets", project.state / "secrets.lock"):
        if folder(project).is_file():
            raise ConfigError([Fault("secrets", *NO_ROOM)])
        places = {name: folder(project) / name for name in READERS}
        try:
            found = [f"secrets/{name}" for name, path in places.items() if path.is_symlink() or path.is_file()]
        except PermissionError as refused:
            raise _closed(project, refused) from refused
        if found:
            raise ConfigError([Fault(name, *NO_FOLDER) for name in found])
        yield


def new_key() -> str:
    """A key that a client presents: 256 random bits."""
    return "llmc-" + secrets.token_urlsafe(32)


def new_password() -> str:
    """A password of 256 random bits."""
    return secrets.token_urlsafe(32)


def read(place: Path, name: str) -> str:
    """The text of a file below ``secrets/``. Raises OSError, and ConfigError when it is a folder or not UTF-8."""
    try:
        return (place / name).read_text("utf-8")
    except UnicodeDecodeError:  # which holds the bytes: they are shown to nobody
        raise ConfigError([Fault(f"secrets/{name}", *NOT_TEXT)]) from None
    except IsADirectoryError:
        raise ConfigError([Fault(f"secrets/{name}", *NO_FILE)]) from None


def renewed(name: str, text: str, digest: str) -> str:
    """The file of digests with this one for a name, which keeps its options, and without its old one; others' lines stay."""
    lines, own = [], [f"{name}:{digest}"]
    for line in text.splitlines():
        owner = line.strip().partition(":")[0]
        if owner == name and own:
            lines.append(re.sub(r":[^\s#]*", f":{digest}", line, count=1))
            own.clear()
        elif owner not in (name, name + OLD):
            lines.append(line)
    return "\n".join(lines + own) + "\n"


def borrowed(name: str, line: str) -> bool:
    """Whether a line of digests has the name of this one's old key, and no rotation has put it there."""
    return line.strip().partition(":")[0] == name + OLD and not line.rstrip().endswith(MARK)


def put(place: Path, name: str, text: str) -> None:
    """Replace a secret at once: its service sees the old one or the new one, and may read either."""
    path = place / name
    fresh = path.with_name(f".{path.name}.new")
    with signals.held():
        replace(fresh, text, 0o400)
        if path.parent != place:
            _open(fresh, READERS[path.parent.name])
        fresh.replace(path)


def _keys(place: Path, pair: Pair, created: list[str]) -> str | None:
    """A random key and the line with its digest; the pair is made together or not at all. Other clients' lines stay."""
    if (place / pair.plain).exists() and (place / pair.digests).exists():
        return None
    key, known = new_key(), read(place, pair.digests) if (place / pair.digests).exists() else ""
    # Until the end there is no key: whoever is interrupted makes the pair anew, and never leaves two that do not agree.
    (place / pair.plain).unlink(missing_ok=True)
    _create(place, pair.digests, renewed(pair.name, known, acl.digest(key)), created)
    _create(place, pair.plain, key + "\n", created)
    return key


def _redis_users(place: Path, created: list[str]) -> None:
    """A password for each user, and the file of their digests, which follows the passwords and what users may do."""
    earlier = {name: read(place, name) for name in (USERS_CONF, *PASSWORDS.values()) if (place / name).exists()}
    before, wanted = earlier.get(USERS_CONF, ""), {}
    known = acl.digests(before)
    for user, name in PASSWORDS.items():
        found = acl.password(user, earlier.get(name, ""))
        if not found:  # an empty password would open Redis to everyone who can reach it
            found = new_password()
            _create(place, name, acl.password_file(user, found), created)
        # A second digest is the earlier password, as long as a rotation goes on.
        wanted[user] = known[user] if acl.digest(found) in known[user] else (acl.digest(found),)
    if acl.users_conf(wanted) != before:
        _create(place, USERS_CONF, acl.users_conf(wanted), created)
        if earlier:
            console.info(f"a Redis that runs has to read secrets/{USERS_CONF} anew: `invoke prod` restarts it")


def _create(place: Path, name: str, text: str, created: list[str]) -> None:
    put(place, name, text)
    created.append(name)


def _open(path: Path, group: int) -> None:
    """Let a service's group read, and nobody else; without root no group can be given, so everyone."""
    if os.geteuid() == 0:
        os.chown(path, 0, group)
        path.chmod(0o750 if path.is_dir() else 0o440)
    else:
        path.chmod(0o755 if path.is_dir() else 0o444)


def _let_in(folder: Path) -> None:
    """Open a service's folder to its group: Compose passes modes and owners of the host through."""
    _open(folder, READERS[folder.name])
    if os.geteuid() == 0:  # an editor or `cp` may have left a file to root alone
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():
                _open(path, READERS[folder.name])


def _move_in(place: Path) -> None:
    """Take over the files of a checkout that had them all in one folder."""
    for name in (CLIENT.digests, CLAUDE_PROXY.plain, CLAUDE_PROXY.digests, *PROVIDED):
        earlier = place / Path(name).name
        if earlier.is_file() and not (place / name).exists():
            earlier.rename(place / name)
