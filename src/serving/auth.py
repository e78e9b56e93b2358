"""Bearer keys, hashed at rest in a file of lines `name:sha256hex`, revocable without a restart, limited in rate."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path

from serving.asgi import App, Receive, Scope, Send, header, notes
from serving.errors import ApiError
from serving.keys_file import EVERY, Check, Key, no_more, parse
from serving.rates import Allowance, Rates, stamped
from serving.settings import SettingsError, reason

__all__ = ["Guard", "Key", "Keyring", "is_loopback"]

log = logging.getLogger("serving.auth")

ANONYMOUS = Key("anonymous")
RECHECK_SECONDS = 1.0
"""How long a revoked key may still be accepted."""


class Keyring:
    """Keys by the digests of their tokens. Without a file it is open: everyone is `anonymous` (loopback only)."""

    def __init__(
        self, path: Path | None, keys: Mapping[bytes, Key], options: Collection[str] = EVERY, check: Check = no_more
    ) -> None:
        self._path = path
        self._keys = tuple(keys.items())
        self._options = options
        self._check = check
        self._stamp = _stamp(path) if path else None
        self._checked = time.monotonic()

    @classmethod
    def load(cls, path: str | Path, *, options: Collection[str] = EVERY, check: Check = no_more) -> Keyring:
        """Read the keys; raises SettingsError with every faulty line.

        `options` are those that the service understands; `check` returns what is wrong with a key's values of them.
        """
        file = Path(path)
        return cls(file, _read(file, options, check), options, check)

    @classmethod
    def for_host(
        cls, path: str, host: str, *, setting: str, options: Collection[str] = EVERY, check: Check = no_more
    ) -> Keyring:
        """Return the keys of `path`; with none of them the service may listen on a loopback `host` only.

        `setting` names the variable that holds the path; the rest is as in `load`. Raises SettingsError.
        """
        keys = cls.load(path, options=options, check=check) if path else cls(None, {})
        if keys._keys or is_loopback(host):
            return keys
        lack = f"{path} holds no key" if path else "not set"
        msg = f"{setting}: {lack}, and the service would be open to anyone at {host}; "
        hint = 'give it a file of lines "name:sha256 of the key", or listen on 127.0.0.1'
        raise SettingsError([msg + hint])

    @property
    def open(self) -> bool:
        """Whether anyone is let in: there never was a file of keys."""
        return self._path is None

    def find(self, authorization: bytes | None) -> Key | None:
        """Return the key in an `Authorization: Bearer ...` header, or None.

        Every key is compared, in constant time, so that timing tells nothing.
        """
        if self._path is None:
            return ANONYMOUS
        self._refresh(self._path)
        scheme, _, token = (authorization or b"").partition(b" ")
        digest = sha256(token.strip()).digest()
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(digest, known):
                found = key
        return found if scheme.lower() == b"bearer" else None

    def _refresh(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._checked < RECHECK_SECONDS:
            return
        self._checked = now
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = tuple(_read(path, self._options, self._check).items())
        except SettingsError as error:
            # Keep the keys that are known: an editor caught in the middle of a save must not lock everybody out.
            log.error("keys not reloaded: %s", "; ".join(error.faults))
        else:
            log.info("keys reloaded", extra={"keys": len(self._keys)})


class Guard:
    """ASGI middleware: paths below `protected` need a key. It is noted as `grant`, its name for the log as `key`.

    Requests per minute are counted in this process, by the key's name: a reload of the keys changes no count.
    """

    def __init__(self, app: App, keyring: Keyring, protected: str = "/v1/") -> None:
        self._app = app
        self._keyring = keyring
        self._protected = protected
        self._rates = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401 or 429."""
        if scope["type"] == "http" and scope["path"].startswith(self._protected):
            presented = header(scope, b"authorization")
            key = self._keyring.find(presented)
            if key is None:
                await _refusal(presented).response()(scope, receive, send)
                return
            state = notes(scope)
            state["key"] = key.name
            state["grant"] = key
            if admit := state.pop("admit", None):
                admit()  # its connection is no longer one without a key; see serving.protocol
            if key.rpm is not None:
                allowance = self._rates.take(key.name, key.rpm)
                if allowance.retry:
                    await _too_many(key.name, allowance).response()(scope, receive, send)
                    return
                send = stamped(send, allowance)
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a socket bound to `host`, which may be the path `unix:PATH`."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refusal(presented: bytes | None) -> ApiError:
    missing = 'No API key given; send the header "Authorization: Bearer KEY".'
    message = missing if presented is None else "Incorrect API key."
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _too_many(name: str, allowance: Allowance) -> ApiError:
    headers = allowance.headers()
    message = f'The key "{name}" is limited to {allowance.limit} requests per minute; '
    hint = f"try again in {headers['retry-after']} s."
    return ApiError(429, message + hint, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path, options: Collection[str], check: Check) -> dict[bytes, Key]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot read the API keys: {reason(error)}"
        raise SettingsError([msg]) from error
    return parse(text, str(path), options, check)
