"""New keys in place of old ones while everything serves, in two steps: ``begin`` adds, ``finish`` takes away.

Between the two both keys are good, so whoever has only one of them is never locked out, nor after a crash: each file is
replaced at once, and a digest is in place before the key it belongs to is used.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shipyard import acl, compose, console, containers, dotenv, host_api, rolling, secrets
from shipyard.errors import ConfigError, UnknownName
from shipyard.models import Fault, Project
from shipyard.names import perhaps
from shipyard.secrets import CLAUDE_PROXY, CLIENT, MARK, OLD, PASSWORDS, USERS_CONF, Pair

if TYPE_CHECKING:
    from shipyard.engine import Engine

PAIRS = {"client": CLIENT, "claude-proxy": CLAUDE_PROXY}
KINDS = (*PAIRS, "redis")
#: Seconds after which every service has noticed a new file of digests: twice RECHECK_SECONDS of src/serving/auth.py.
NOTICED = 2.0


@dataclass(frozen=True)
class State:
    """Whether a second key is good, and whether the key in use is the newer of the two."""

    both: bool
    newer: bool


def begin(project: Project, engine: Engine | None, kind: str) -> str | None:
    """Add a new key beside the old one and let the services use it; return it where a person has to pass it on.

    ``engine`` is None where none runs. Raises UnknownName, ConfigError when a rotation goes on or files do not agree,
    and StackFailed.
    """
    _known(kind)
    with secrets.alone(project):
        found = state(project, kind)
        if found.both and found.newer:
            hint = f"`invoke secrets.rotate {kind} --finish` ends the old one first"
            raise ConfigError([Fault(f"secrets of {kind}", "were rotated already, and the old one still works", hint)])
        if kind == "redis":
            _begin_redis(project, engine)
            return None
        return _begin_pair(project, engine, kind, PAIRS[kind])


def finish(project: Project, engine: Engine | None, kind: str) -> None:
    """End the old key. Raises UnknownName, ConfigError when there is none or the new one is not in use, and StackFailed."""
    _known(kind)
    with secrets.alone(project):
        found = state(project, kind)
        hint = f"`invoke secrets.rotate {kind}` makes a new one"
        if not found.both:
            raise ConfigError([Fault(f"secrets of {kind}", "have no old one that still works", hint)])
        if not found.newer:
            raise ConfigError([Fault(f"secrets of {kind}", "were not rotated to the end", hint)])
        if kind == "redis":
            _finish_redis(project, engine)
        else:
            _finish_pair(project, engine, kind, PAIRS[kind])


def state(project: Project, kind: str) -> State:
    """How far a rotation has come.

    Raises ConfigError when a key is not among its digests, its old name is a client's own, or a file is not text.
    """
    place = secrets.folder(project)
    try:
        if kind == "redis":
            known = acl.digests(secrets.read(place, USERS_CONF))
            used = {user: acl.password(user, secrets.read(place, name)) for user, name in PASSWORDS.items()}
        else:
            pair = PAIRS[kind]
            text = secrets.read(place, pair.digests)
            _nobodys(pair, text)
            known = {kind: digests(pair.name, text)}
            used = {kind: secrets.read(place, pair.plain).strip()}
    except OSError as problem:
        raise ConfigError([Fault(str(problem.filename), str(problem.strerror), "`invoke secrets.check`")]) from problem
    places = {
        name: known[name].index(acl.digest(key)) if acl.digest(key) in known[name] else -1 for name, key in used.items()
    }
    if -1 in places.values():
        raise ConfigError([Fault(f"secrets of {kind}", "do not agree", "`invoke secrets.check` says where")])
    return State(any(len(each) > 1 for each in known.values()), not any(places.values()))


def digests(name: str, text: str) -> tuple[str, ...]:
    """The digest of a name in a file of keys and, behind it, the one of the key that it is to replace."""
    found = dict(re.findall(r"^\s*([A-Za-z0-9._@-]+):([0-9a-fA-F]{64})", text, re.MULTILINE))
    return tuple(found[each].lower() for each in (name, name + OLD) if each in found) if name in found else ()


def added(name: str, text: str, digest: str) -> str:
    """The file with a new digest for a name; the one that its key has now moves to a line for the old one, options and all."""
    current, *old = digests(name, text)
    lines = []
    for line in text.splitlines():
        owner = line.strip().partition(":")[0]
        if owner == name:
            before = old[0] if old else current  # an interrupted rotation: its new key was never used
            new = re.sub(current, digest, line, flags=re.IGNORECASE)
            earlier = re.sub(current, before, line.replace(name, name + OLD, 1), flags=re.IGNORECASE)
            lines += [new, f"{earlier.rstrip()} {MARK}"]
        elif owner != name + OLD:
            lines.append(line)
    return "\n".join(lines) + "\n"


def without_old(name: str, text: str) -> str:
    """The file without the line of the old key."""
    kept = [line for line in text.splitlines() if line.strip().partition(":")[0] != name + OLD]
    return "\n".join(kept) + "\n"


def _known(kind: str) -> None:
    if kind not in KINDS:
        msg = f'secret "{kind}": nothing of that name is rotated; {perhaps(kind, KINDS)}'
        raise UnknownName(msg)


def _nobodys(pair: Pair, text: str) -> None:
    """Refuse where the name of the old key is a client's own: it would end with the rotation."""
    for number, line in enumerate(text.splitlines(), 1):
        if secrets.borrowed(pair.name, line):
            problem = f'the name "{pair.name}{OLD}" is kept for a rotation, and none has put it there'
            hint = "give that client another name, or remove the line"
            raise ConfigError([Fault(f"secrets/{pair.digests}:{number}", problem, hint)])


def _begin_pair(project: Project, engine: Engine | None, kind: str, pair: Pair) -> str | None:
    place, key = secrets.folder(project), secrets.new_key()
    secrets.put(place, pair.digests, added(pair.name, secrets.read(place, pair.digests), acl.digest(key)))
    time.sleep(NOTICED)
    secrets.put(place, pair.plain, key + "\n")
    if pair == CLIENT:
        console.step(f"made a new key, in secrets/{pair.plain} too; the old one still works")
        return key
    _reload_api(project, engine)
    console.step(f"{kind} knows a new key; the old one still works")
    return None


def _finish_pair(project: Project, engine: Engine | None, kind: str, pair: Pair) -> None:
    place = secrets.folder(project)
    if pair == CLAUDE_PROXY:
        _reload_api(project, engine)  # if one of them missed it, it would be locked out now
        time.sleep(NOTICED)
    secrets.put(place, pair.digests, without_old(pair.name, secrets.read(place, pair.digests)))
    console.step(f"the old key of {kind} works no more, {NOTICED:g} s from now at the latest")


def _begin_redis(project: Project, engine: Engine | None) -> None:
    place = secrets.folder(project)
    new = {user: secrets.new_password() for user in PASSWORDS}
    used = {user: acl.password(user, secrets.read(place, name)) for user, name in PASSWORDS.items()}
    both = {user: (acl.digest(new[user]), acl.digest(used[user])) for user in PASSWORDS}
    secrets.put(place, USERS_CONF, acl.users_conf(both))
    restart(project, engine, "redis")
    for user, name in PASSWORDS.items():
        secrets.put(place, name, acl.password_file(user, new[user]))
    restart(project, engine, "redis-exporter")  # reads its file at its start; the API, at each new connection
    console.step("redis knows new passwords; the old ones still work")


def _finish_redis(project: Project, engine: Engine | None) -> None:
    place = secrets.folder(project)
    known = acl.digests(secrets.read(place, USERS_CONF))
    secrets.put(place, USERS_CONF, acl.users_conf({user: each[:1] for user, each in known.items()}))
    restart(project, engine, "redis")
    console.step("the old passwords of redis work no more")


def restart(project: Project, engine: Engine | None, service: str) -> None:
    """Stop a service's containers cleanly and start them again, if they run. Raises StackFailed."""
    if engine:
        found = [each for each in containers.every(engine, dotenv.project_name(project.root), service) if each.running]
        if found:
            console.step(f"restarting {service}")
            docker = compose.by_name(project, engine)
            rolling.restart(engine, docker, found)


def _reload_api(project: Project, engine: Engine | None) -> None:
    """Have every instance of the API read its files again; what it does goes on. Raises StackFailed."""
    if engine:
        name = dotenv.project_name(project.root)
        found = [each.id for each in containers.every(engine, name, "llm-call-api") if each.running]
        if found:
            docker = compose.by_name(project, engine)
            compose.call(lambda: docker.container.kill(found, signal="HUP"))
    if number := host_api.process(project):
        os.kill(number, signal.SIGHUP)
