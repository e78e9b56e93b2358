"""The login of a registry: given by the environment, else what ``docker login`` left on this machine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from shipyard import logins, strict_json
from shipyard.engine.types import home
from shipyard.errors import AccessDenied, ShipyardError
from shipyard.logins import Login, Secret
from shipyard.machine import replace
from shipyard.run import run

#: Variables that give a login, and the one that names the registry it is for (HOST[:PORT][/PREFIX]; unset: for any).
USERNAME = "SHIPYARD_REGISTRY_USERNAME"
PASSWORD_FILE = "SHIPYARD_REGISTRY_PASSWORD_FILE"
TOKEN_FILE = "SHIPYARD_REGISTRY_TOKEN_FILE"
REGISTRY = "SHIPYARD_REGISTRY"
#: Seconds a credential helper gets; one that asks a person would hang a pipeline.
_HELPER = 30.0


def find(host: str) -> Login | None:
    """The login for a registry (``HOST`` or ``HOST:PORT``); None where nobody logged in.

    The environment comes first: a token file alone is sent as a Bearer token, with a user it is his password.
    Then docker's config.json (DOCKER_CONFIG, else ~/.docker, then that of the embedded engine): credHelpers, auths,
    credsStore. Raises AccessDenied naming the file or program that is broken.
    """
    return _given(host) or next(filter(None, (_stored(folder, host) for folder in _folders())), None)


def docker_config(folder: Path, host: str) -> dict[str, str]:
    """Write a private config.json with this registry's login alone; the variables that point docker and cosign at it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace(folder / "config.json", json.dumps(logins.to_config(host, find(host))) + "\n", 0o600)
    return {"DOCKER_CONFIG": str(folder)}


def _folders() -> list[Path]:
    chosen = os.environ.get("DOCKER_CONFIG")
    own = Path(chosen) if chosen else Path.home() / ".docker"
    return list(dict.fromkeys((own, home() / "client")))


def _given(host: str) -> Login | None:
    only = os.environ.get(REGISTRY, "").partition("/")[0]
    if only and only not in logins.names(host):
        return None  # `invoke verify` may name somebody else's registry
    user, token, password = (os.environ.get(name, "") for name in (USERNAME, TOKEN_FILE, PASSWORD_FILE))
    if token:
        secret = _secret(TOKEN_FILE, token)
        return Login(TOKEN_FILE, user, secret) if user else Login(TOKEN_FILE, bearer=secret)
    if not password:
        return None
    if not user:
        msg = f"{PASSWORD_FILE} is set without {USERNAME}: whose password is it?"
        raise AccessDenied(msg)
    return Login(PASSWORD_FILE, user, _secret(PASSWORD_FILE, password))


def _secret(name: str, path: str) -> Secret:
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not text"
        msg = f"{name}={path} cannot be read: {reason}"
        raise AccessDenied(msg) from None
    if not text:
        msg = f"{name}={path} is empty"
        raise AccessDenied(msg)
    return Secret(text)


def _stored(folder: Path, host: str) -> Login | None:
    """What docker knows by this config.json, asked for in docker's order."""
    path = folder / "config.json"
    try:
        config = strict_json.load(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        # A parser's message may quote the file, which holds passwords.
        msg = f"{path} cannot be read as docker's configuration ({type(problem).__name__}); run `docker login {host}`"
        raise AccessDenied(msg) from None
    helpers, auths = (_table(config, key) for key in ("credHelpers", "auths"))
    for name in logins.names(host):
        if helpers.get(name):
            return _helped(str(helpers[name]), name)
    found = next((_entry(auths[name], path, host) for name in logins.names(host) if name in auths), None)
    if found is None and isinstance(config, dict) and config.get("credsStore"):
        return _helped(str(config["credsStore"]), logins.names(host)[0])
    return found


def _table(config: Any, key: str) -> dict[str, Any]:
    found = config.get(key) if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}


def _entry(entry: Any, path: Path, host: str) -> Login | None:
    try:
        return logins.from_config(entry if isinstance(entry, dict) else {}, str(path))
    except ValueError as problem:
        msg = f"{path}: the login for {host} cannot be read: {problem}; run `docker login {host}`"
        raise AccessDenied(msg) from None


def _helped(helper: str, server: str) -> Login | None:
    """Ask a credential helper (github.com/docker/docker-credential-helpers); None when it does not know the server."""
    program = f"docker-credential-{helper}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", helper):
        msg = f"{program!r} is no credential helper's name; see credHelpers and credsStore in docker's config.json"
        raise AccessDenied(msg)
    try:
        # Its output holds the secret, so an error never shows it.
        answer = run([program, "get"], text=server, timeout=_HELPER, check=False)
        if answer.status and "not found" in answer.stdout + answer.stderr:
            return None
        if answer.status:
            msg = f"{program} ended with status {answer.status} for {server}; run `docker login {server}`"
            raise AccessDenied(msg)
        return logins.from_helper(strict_json.table(answer.stdout.encode()), program)
    except ValueError:
        msg = f"{program} gave no JSON for {server}"
        raise AccessDenied(msg) from None
    except AccessDenied:
        raise
    except ShipyardError as problem:
        raise AccessDenied(str(problem)) from None
