"""Logins of registries: what a registry asks for, what docker's config.json says, and how it is answered. Pure functions."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The name under which docker keeps the login of Docker Hub (github.com/docker/cli, IndexServer).
HUB = "https://index.docker.io/v1/"
#: What credential helpers say instead of a user's name when the secret is an identity token.
TOKEN_USER = "<token>"
_CHALLENGE = re.compile(r'(?P<scheme>[A-Za-z]+)\s+(?P<fields>(?:[A-Za-z_-]+="[^"]*"(?:\s*,\s*)?)+)')
#: Characters of the header that are looked at; a registry's has about 200.
_LONGEST = 4096
_FIELD = re.compile(r'([A-Za-z_-]+)="([^"]*)"')


class Secret:
    """A text that no log, error or repr shows; only ``reveal`` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "[REDACTED]"


_NONE = Secret()


@dataclass(frozen=True)
class Login:
    """How to log in: a user with a password, or an ``identity`` token (exchanged), or a ``bearer`` token (sent as it is).

    ``origin`` says where it comes from, for errors.
    """

    origin: str
    user: str = ""
    password: Secret = _NONE
    identity: Secret = _NONE
    bearer: Secret = _NONE

    def basic(self) -> str:
        """The value of an Authorization header with user and password; empty when there are none."""
        return "Basic " + _encoded(self) if self.password else ""

    def redact(self, text: str) -> str:
        """The text without any secret of this login, however it was written."""
        secrets = [each.reveal() for each in (self.password, self.identity, self.bearer)]
        for each in sorted(filter(None, [*secrets, _encoded(self) if self.password else ""]), key=len, reverse=True):
            text = text.replace(each, repr(_NONE))
        return text


def _encoded(login: Login) -> str:
    return base64.b64encode(f"{login.user}:{login.password.reveal()}".encode()).decode()


@dataclass(frozen=True)
class Challenge:
    """What a registry asks for in a 401: ``scheme`` is basic or bearer."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def challenge(header: str) -> Challenge | None:
    """The way to log in that ``WWW-Authenticate`` offers, a token service before a password; None when there is neither."""
    found, header = {}, header[:_LONGEST]
    for each in _CHALLENGE.finditer(header):
        fields = {name.lower(): value for name, value in _FIELD.findall(each["fields"])}
        known = {name: fields[name] for name in ("realm", "service", "scope") if name in fields}
        found[each["scheme"].lower()] = Challenge(each["scheme"].lower(), **known)
    if "bearer" not in found and re.search(r"(?i)\bbasic\b", header):
        return found.get("basic", Challenge("basic"))
    return found.get("bearer")


def names(host: str) -> tuple[str, ...]:
    """What a registry may be called in docker's config.json."""
    if host in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        return (HUB, "index.docker.io", "docker.io", "registry-1.docker.io")
    return (host, *(f"{scheme}://{host}{path}" for scheme in ("https", "http") for path in ("", "/", "/v1/", "/v2/")))


def from_config(entry: Mapping[str, Any], origin: str) -> Login | None:
    """The login of one entry of ``auths``; None when it is empty, as beside a credential store. Raises ValueError."""
    bearer, identity = (Secret(str(entry.get(key) or "")) for key in ("registrytoken", "identitytoken"))
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as problem:
            msg = f"the field auth is not base64 ({type(problem).__name__})"
            raise ValueError(msg) from None
        user, _, password = text.rstrip("\0").partition(":")
    if not (bearer or identity or password):
        return None
    return Login(origin, user, Secret(password), identity, bearer)


def from_helper(document: Mapping[str, Any], origin: str) -> Login | None:
    """The login that a credential helper printed."""
    user, secret = str(document.get("Username") or ""), Secret(str(document.get("Secret") or ""))
    if not secret:
        return None
    return Login(origin, identity=secret) if user == TOKEN_USER else Login(origin, user, secret)


def to_config(host: str, login: Login | None) -> dict[str, Any]:
    """A config.json with this login alone; it holds secrets."""
    if login is None:
        return {"auths": {}}
    entry = {"identitytoken": login.identity.reveal(), "registrytoken": login.bearer.reveal()}
    if login.password:
        entry["auth"] = _encoded(login)
    return {"auths": {names(host)[0]: {key: value for key, value in entry.items() if value}}}
