"""What is wrong with ``secrets/``: every fault at once. Nothing of a secret is shown."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shipyard import acl, console, dotenv, policy, secret_text, secrets, secrets_access
from shipyard.errors import ConfigError
from shipyard.models import Fault, Project
from shipyard.secrets import (
    CLAUDE_PROXY,
    CLIENT,
    NO_FILE,
    NO_ROOM,
    NOT_TEXT,
    OLD,
    PASSWORDS,
    PROVIDED,
    USERS_CONF,
    Pair,
)
from shipyard.secrets_access import INIT

#: What makes secrets/ where there is none.
MAKES = "`invoke secrets.init` makes it"
#: The fewest characters of a key that we made, and of one that a provider gave.
OWN, PROVIDERS = 32, 16
#: What keys of each issuer begin with; other issuers' have no beginning of their own.
ISSUERS = {"sk-ant-": "Anthropic", "AIza": "Google", "pplx-": "Perplexity", "llmc-": "this gateway"}
_ISSUED = {
    "egress/anthropic_api_key": "Anthropic",
    "api/google_api_key": "Google",
    "api/perplexity_api_key": "Perplexity",
}
_LINE = re.compile(r"([A-Za-z0-9._@-]{1,64}):([0-9a-fA-F]{64})(\s.*)?")

#: Digests of what somebody in a hurry takes for a key.
_WELL_KNOWN = {
    acl.digest(word) for word in ("", "changeme", "secret", "password", "test", "key", "llm-call", "your-key-here")
}


@dataclass(frozen=True)
class Report:
    """Faults; what is not given, which is none; and what a rotation has begun and not finished."""

    faults: tuple[Fault, ...]
    not_given: tuple[str, ...]
    rotating: tuple[str, ...]


def check(project: Project) -> Report:
    """Look at every file: its place, its owner, its mode, its text, and what has to agree with it. Starts nothing but git."""
    if secrets.folder(project).is_file():
        return Report((Fault("secrets", *NO_ROOM),), (), ())
    if not secrets.folder(project).is_dir():
        return Report((Fault("secrets/", "does not exist", MAKES),), (), ())
    models = _models(project)
    generated = {*PASSWORDS.values(), USERS_CONF, *(name for pair in (CLIENT, CLAUDE_PROXY) for name in _both(pair))}
    texts, faults = _read(project, generated | PROVIDED.keys(), generated | models.keys())
    faults += secrets_access.faults(project, generated | models.keys())
    # What has to agree is compared where all of it can be read; that it cannot is a fault already.
    for pair in (CLIENT, CLAUDE_PROXY):
        if texts.keys() >= _both(pair):
            faults += _pair(pair, texts)
    if texts.keys() >= {*PASSWORDS.values(), USERS_CONF}:
        faults += _redis(texts)
    given = {name for name in models if texts.get(name, "").strip()}
    faults += [fault for name in sorted(given) for fault in _provided(name, texts[name])]
    absent = [f"secrets/{name}: {models[name]}" for name in sorted(models.keys() - given)]
    return Report((*faults, *_settings(project)), tuple(absent), tuple(_rotating(texts)))


def show(report: Report, *, json: bool) -> None:
    """Print it: one JSON document, or lines. Raises ConfigError with the faults, if there are any."""
    if json:
        console.document(report)
    else:
        for each in (*report.not_given, *report.rotating):
            console.skip(each)
    if report.faults:
        raise ConfigError(report.faults)
    console.step("nothing is wrong with secrets/")


def _both(pair: Pair) -> set[str]:
    return {pair.plain, pair.digests}


def _read(project: Project, needed: set[str], known: set[str]) -> tuple[dict[str, str], list[Fault]]:
    texts, faults = {}, []
    for name in sorted(known):
        try:
            # As bytes: reading text would turn line ends of Windows into others.
            texts[name] = (secrets.folder(project) / name).read_bytes().decode()
        except FileNotFoundError:
            faults += [Fault(f"secrets/{name}", "is missing", INIT)] if name in needed else []
        except UnicodeDecodeError:
            faults.append(Fault(f"secrets/{name}", *NOT_TEXT))
        except IsADirectoryError:
            faults.append(Fault(f"secrets/{name}", *NO_FILE))
        except NotADirectoryError:
            continue  # its folder is a file, which is a fault of its own
        except OSError as problem:
            refused = isinstance(problem, PermissionError) and os.geteuid() != 0
            hint = "run this as its owner or as root" if refused else "see to its file system, and look again"
            faults.append(Fault(f"secrets/{name}", f"cannot be looked at: {problem.strerror}", hint))
    return texts, faults


def _models(project: Project) -> dict[str, str]:
    """Each file that holds a provider's credential, with what comes of leaving it empty."""
    try:
        document: dict[str, Any] = tomllib.loads((project.root / "config/models.toml").read_text("utf-8"))
    except (OSError, ValueError):
        document = {}  # the gateway says what is wrong with it
    upstreams, models = document.get("upstream", {}), document.get("model", {})
    files = dict.fromkeys(PROVIDED, "nothing asks for it")
    for name, upstream in upstreams.items():
        ours = upstream.get("kind") == "claude-proxy"
        variable = str(upstream.get("api_key_env", ""))
        file = "egress/anthropic_api_key" if ours else f"api/{variable.lower()}" if variable else ""
        of_it = [model for model, table in models.items() if table.get("upstream") == name]
        if file and of_it:
            files[file] = f"not given, so {', '.join(of_it)} cannot be used"
    return files


def _text(name: str, text: str, least: int) -> list[Fault]:
    return [Fault(f"secrets/{name}", *problem) for problem in secret_text.problems(text, least)]


def _provided(name: str, text: str) -> Iterator[Fault]:
    yield from _text(name, text, PROVIDERS)
    word = text.strip()
    issuer = next((each for beginning, each in ISSUERS.items() if word.startswith(beginning)), None)
    if issuer and _ISSUED.get(name) != issuer:
        yield Fault(f"secrets/{name}", f"holds a key of {issuer}", "another file is the place for it")


def _pair(pair: Pair, texts: dict[str, str]) -> Iterator[Fault]:
    """A key and the digests that its readers know."""
    place, lines = f"secrets/{pair.digests}", dict[str, str]()
    for number, line in enumerate(texts[pair.digests].splitlines(), 1):
        words = line.partition("#")[0].strip()
        match = _LINE.fullmatch(words)
        if words and not match:
            hint = 'write "name:", then the 64 hexadecimal digits of the SHA-256 of the key'
            yield Fault(f"{place}:{number}", 'not of the form "name:sha256"', hint)
        elif match and match[1] in lines:
            yield Fault(f"{place}:{number}", f'the name "{match[1]}" is used twice', "each key has its own name")
        elif match and match[2].lower() in _WELL_KNOWN:
            hint = "give that client a random key"
            yield Fault(f"{place}:{number}", f'the key of "{match[1]}" is one that everybody guesses', hint)
        elif match and secrets.borrowed(pair.name, line):
            hint = "give that client another name, or remove the line"
            yield Fault(f"{place}:{number}", f'the name "{match[1]}" is kept for what a rotation is about to end', hint)
        if match:
            lines.setdefault(match[1], match[2].lower())
    yield from _own(pair.plain, texts[pair.plain])
    digest = acl.digest(texts[pair.plain].strip())
    if texts[pair.plain].strip() and digest not in (lines.get(pair.name), lines.get(pair.name + OLD)):
        hint = "remove this file alone; `invoke secrets.init` makes a new key, the earlier one ends, and others' stay"
        yield Fault(f"secrets/{pair.plain}", f'is not the key of "{pair.name}" in {place}', hint)


def _own(name: str, text: str) -> list[Fault]:
    if not text.strip():
        return [Fault(f"secrets/{name}", "is empty", "remove it; `invoke secrets.init` makes a new one")]
    return _text(name, text, OWN)


def _redis(texts: dict[str, str]) -> Iterator[Fault]:
    """The passwords of Redis's users and the digests that Redis knows."""
    known = acl.digests(texts[USERS_CONF])
    for user, name in PASSWORDS.items():
        password = acl.password(user, texts[name])
        if not password:
            yield Fault(f"secrets/{name}", f"holds no password for {user}", INIT)
            continue
        yield from _text(name, texts[name] if user == acl.API else password, OWN)
        if acl.digest(password) not in known[user]:
            hint = f"{INIT}; then `docker restart` Redis, which reads it at its start"
            yield Fault(f"secrets/{USERS_CONF}", f"does not know the password in secrets/{name}", hint)
    if texts[USERS_CONF] != acl.users_conf(known):
        yield Fault(f"secrets/{USERS_CONF}", "does not say what this version lets each user do", INIT)


def _settings(project: Project) -> Iterator[Fault]:
    """Secrets in .env, which every container's environment may be filled from."""
    try:
        text = dotenv.read(project.root)
    except ConfigError as failed:
        yield from failed.faults
        return
    for name, value in dotenv.parse(text).items():
        if policy.SECRET.search(name) and not policy.HARMLESS.fullmatch(value):
            yield Fault(f".env: {name}", "is a secret among settings", "put it into its file below secrets/")


def _rotating(texts: dict[str, str]) -> Iterator[str]:
    """What `invoke secrets.rotate` has begun: two keys are good."""
    for what, pair in {"client": CLIENT, "claude-proxy": CLAUDE_PROXY}.items():
        lines = texts.get(pair.digests, "").splitlines()
        if any(
            line.strip().startswith(f"{pair.name}{OLD}:") and not secrets.borrowed(pair.name, line) for line in lines
        ):
            yield f"{what}: the earlier key still works; `invoke secrets.rotate {what} --finish` ends it"
    if any(len(each) > 1 for each in acl.digests(texts.get(USERS_CONF, "")).values()):
        yield "redis: the earlier passwords still work; `invoke secrets.rotate redis --finish` ends them"
