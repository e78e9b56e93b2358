"""Bearer keys, hashed at rest in a file of lines `name:sha256hex`, revocable without a restart."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import time
from hashlib import sha256
from pathlib import Path

from serving.asgi import App, Receive, Scope, Send, header, notes
from serving.errors import ApiError
from serving.settings import SettingsError, reason

log = logging.getLogger("serving.auth")

LINE = re.compile(r"([A-Za-z0-9._@-]{1,64}):([0-9a-fA-F]{64})")
RECHECK_SECONDS = 1.0
"""How long a revoked key may still be accepted."""


class Keyring:
    """Named keys. Without a file it is open: every request is let in as `anonymous` (loopback only)."""

    def __init__(self, path: Path | None, keys: dict[str, bytes]) -> None:
        self._path = path
        self._keys = keys
        self._stamp = _stamp(path) if path else None
        self._checked = time.monotonic()

    @classmethod
    def load(cls, path: str | Path) -> Keyring:
        """Read the keys; raises SettingsError with every faulty line."""
        file = Path(path)
        return cls(file, _read(file))

    @classmethod
    def for_host(cls, path: str, host: str, *, setting: str) -> Keyring:
        """Return the keys of `path`; with none of them the service may listen on a loopback `host` only.

        `setting` names the variable that holds the path. Raises SettingsError.
        """
        keys = cls.load(path) if path else cls(None, {})
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

    def find(self, authorization: bytes | None) -> str | None:
        """Return the name of the key in an `Authorization: Bearer ...` header, or None.

        Every key is compared, in constant time, so that timing tells nothing.
        """
        if self._path is None:
            return "anonymous"
        self._refresh(self._path)
        scheme, _, token = (authorization or b"").partition(b" ")
        digest = sha256(token.strip()).digest()
        found = None
        for name, known in self._keys.items():
            if hmac.compare_digest(digest, known):
                found = name
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
            self._keys = _read(path)
        except SettingsError as error:
            # Keep the keys that are known: an editor caught in the middle of a save must not lock everybody out.
            log.error("keys not reloaded: %s", "; ".join(error.faults))
        else:
            log.info("keys reloaded", extra={"keys": len(self._keys)})


class Guard:
    """ASGI middleware: paths below `protected` need a key; its name is noted for the log."""

    def __init__(self, app: App, keyring: Keyring, protected: str = "/v1/") -> None:
        self._app = app
        self._keyring = keyring
        self._protected = protected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401."""
        if scope["type"] == "http" and scope["path"].startswith(self._protected):
            presented = header(scope, b"authorization")
            name = self._keyring.find(presented)
            if name is None:
                await _refusal(presented).response()(scope, receive, send)
                return
            notes(scope)["key"] = name
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refusal(presented: bytes | None) -> ApiError:
    missing = 'No API key given; send the header "Authorization: Bearer KEY".'
    message = missing if presented is None else "Incorrect API key."
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot read the API keys: {reason(error)}"
        raise SettingsError([msg]) from error
    keys: dict[str, bytes] = {}
    faults = []
    for number, raw in enumerate(lines, 1):
        line = raw.partition("#")[0].strip()
        match = LINE.fullmatch(line)
        if match and match[1] not in keys:
            keys[match[1]] = bytes.fromhex(match[2])
        elif match:
            faults.append(f'{path}:{number}: the name "{match[1]}" is used twice; each key has its own name')
        elif line:
            faults.append(f'{path}:{number}: not of the form "name:sha256" with 64 hexadecimal digits')
    if faults:
        raise SettingsError(faults)
    return keys
