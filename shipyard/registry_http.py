"""HTTP to one registry: only where it is safe to send, and with patience for what passes by itself."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urljoin, urlsplit

from shipyard import proxies
from shipyard.errors import BuildFailed, RegistryFailed

if TYPE_CHECKING:
    import urllib3

Result = TypeVar("Result")

#: Seconds that waiting for a registry may take in all.
PATIENCE = 60.0
#: Seconds for a connection, and for the next bytes of an answer; a registry may hash a layer of a GB before it answers.
_CONNECT, _READ = 10.0, 60.0
#: The first wait in seconds; each following one may be twice as long, up to the longest.
_FIRST, _LONGEST = 0.2, 8.0
#: Times that bytes of another digest are asked for anew: a cache may heal, a forgery does not.
_WRONG = 3
_PASSING = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 5
#: Bytes of an error's text, or of a token service's answer, that are read.
TEXT = 64 * 1024
#: Bytes of a file that are read and sent at once.
_BLOCK = 256 * 1024


class Passing(Exception):
    """A failure that may pass: tried again. ``after`` is how many seconds the registry asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Wrong(Passing):
    """Bytes whose digest is not the one that was asked for."""


@dataclass(frozen=True)
class Answer:
    """A response that was read; the names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def loopback(host: str) -> bool:
    """Whether a registry (``HOST`` or ``HOST:PORT``) is on this machine: plain HTTP is spoken with no other."""
    return re.fullmatch(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", host) is not None


class Wire:
    """Sends requests to one registry (``HOST`` or ``HOST:PORT``); ``redact`` takes secrets out of what errors show."""

    def __init__(self, host: str, base: str, redact: Callable[[str], str], patience: float = PATIENCE) -> None:
        self.host, self.base, self._redact, self._patience = host, base, redact, patience
        self._stopped = threading.Event()
        self._made: dict[str, urllib3.PoolManager] = {}
        self._making = threading.Lock()

    def stop(self) -> None:
        """Let every request of other threads end at its next block of bytes, and every wait at once."""
        self._stopped.set()

    def patiently(self, attempt: Callable[[], Result], what: str) -> Result:
        """Try until it works; waits with jitter, at most ``patience`` seconds in all. Raises RegistryFailed then."""
        end, tries, wrong = 0.0, 0, 0
        while True:
            try:
                return attempt()
            except Passing as problem:
                end = end or time.monotonic() + self._patience
                wrong += isinstance(problem, Wrong)
                # Jitter keeps several clients apart; half of the step is certain, so that waits do grow.
                step = min(_LONGEST, _FIRST * 2**tries)
                wait = max(problem.after, step / 2 + random.uniform(0, step / 2))
                if wrong >= _WRONG or time.monotonic() + wait > end or self._stopped.is_set():
                    raise RegistryFailed(self._failure(what, problem)) from None
                tries += 1
                self._stopped.wait(wait)

    def _failure(self, what: str, problem: Passing) -> str:
        later = f" (it asks to wait {problem.after:g} s)" if problem.after else ""
        return self._redact(f"{self.host}: {what}: {problem}{later}; is the registry up and the address right?")

    def explain(self, answer: Answer) -> str:
        """What an answer says is wrong, in one line without secrets (distribution specification, "Error Codes")."""
        try:
            errors = json.loads(answer.body)["errors"]
            said = ", ".join(
                f"{each.get('code', '')} {each.get('message', '')} {_system_error(each.get('detail'))}".strip()
                for each in errors
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            said = answer.body[:200].decode(errors="replace").strip()
        plain = "".join(each if each.isprintable() or each.isspace() else "?" for each in said)
        return self._redact(" ".join(f"status {answer.status} {plain}".split())[:400])

    def follow(self, method: str, url: str, headers: dict[str, str], body: bytes | Path | None, limit: int) -> Answer:
        """Send, and for reads go where the registry keeps its blobs; a login is only ever sent to the registry itself."""
        for _ in range(_HOPS):
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and loopback(parts.netloc)):
                msg = f"{self.host} sends us to {parts.scheme}://{parts.netloc}, which is not HTTPS"
                raise RegistryFailed(msg)
            if not url.startswith(self.base + "/"):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            answer = self.send(method, url, headers, body, limit)
            if answer.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return answer
            url = urljoin(url, answer.headers.get("location", ""))
        msg = f"{self.host} redirects without end"
        raise RegistryFailed(msg)

    def send(self, method: str, url: str, headers: dict[str, str], body: bytes | Path | None, limit: int) -> Answer:
        """One request to this very URL. Raises Passing for what may pass, RegistryFailed for TLS that cannot be trusted."""
        import urllib3.exceptions

        headers = {"User-Agent": "shipyard", **headers}
        where = urlsplit(url).netloc
        with ExitStack() as files:
            content: Any = body
            if isinstance(body, Path):
                handle = files.enter_context(_open(body))
                headers["Content-Length"] = str(os.fstat(handle.fileno()).st_size)
                content = _Sent(handle, self._stopped)
            try:
                return self._read(method, url, headers, content, limit)
            except (urllib3.exceptions.HTTPError, ConnectionError) as problem:
                if isinstance(problem, urllib3.exceptions.SSLError) and "EOF" not in str(problem):
                    msg = (
                        f"{where}: no TLS that can be trusted ({problem}); SSL_CERT_FILE names authorities of your own"
                    )
                    raise RegistryFailed(msg) from None
                reason = f"no answer from {where} ({_short(problem)})"
                raise Passing(reason) from None

    def _read(self, method: str, url: str, headers: dict[str, str], body: Any, limit: int) -> Answer:
        response = self._pool(proxies.find(url)).request(
            method, url, headers=headers, body=body, preload_content=False, redirect=False, retries=False
        )
        try:
            data = b"" if method == "HEAD" else response.read(limit + 1)
        except BaseException:
            response.close()
            raise
        if len(data) > limit:
            response.close()
            msg = f"{self.host}: an answer of more than {limit} bytes to {method} {urlsplit(url).path}"
            raise RegistryFailed(msg)
        response.release_conn()
        answer = Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, data)
        if answer.status in _PASSING:
            reason = self.explain(answer)
            if os.strerror(errno.ENOSPC) in reason:
                msg = f"{self.host} cannot store what it is sent: {reason}; make room there and run the same command again"
                raise RegistryFailed(msg)
            raise Passing(reason, seconds(answer.headers.get("retry-after", ""), time.time()))
        return answer

    def _pool(self, proxy: str) -> urllib3.PoolManager:
        """Connections by way of a proxy, or straight ones for ``""``."""
        import urllib3

        with self._making:
            if proxy not in self._made:
                # Who has little patience does not wait long for a registry that hangs either.
                longest = max(self._patience, 1.0)
                timeout = urllib3.Timeout(connect=min(_CONNECT, longest), read=min(_READ, longest))
                options: Any = {"maxsize": 8, "timeout": timeout, "blocksize": _BLOCK}
                self._made[proxy] = proxies.through(proxy, **options) if proxy else urllib3.PoolManager(**options)
            return self._made[proxy]


def seconds(retry_after: str, now: float) -> float:
    """How long ``Retry-After`` asks to wait: seconds, or a date (RFC 9110, 10.2.3); 0 when it says neither."""
    if retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except (ValueError, TypeError):
        return 0.0


def _system_error(detail: Any) -> str:
    """The words for the error number of its file system that docker-registry gives as detail of "unknown error"."""
    enclosed = detail.get("Enclosed") if isinstance(detail, dict) else None
    number = enclosed.get("Err") if isinstance(enclosed, dict) else None
    return f"({os.strerror(number)})" if isinstance(number, int) and number in errno.errorcode else ""


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as problem:
        msg = f"{path} cannot be sent: {problem.strerror}; build it again"
        raise RegistryFailed(msg) from problem


def _short(problem: BaseException) -> str:
    """What went wrong, without the library's objects around it."""
    inner = next((each for each in problem.args if isinstance(each, BaseException)), problem)
    return re.sub(r"^(<[^>]*>|\w+\([^)]*\)):\s*", "", str(inner)) or type(inner).__name__


class _Sent:
    """A file that is being sent, which urllib3 reads block by block.

    It ends with an error once the whole push is given up, and before its last block when its bytes, named by their digest
    as in an OCI layout (``blobs/sha256/<hex>``), are others: the registry never has them complete.
    """

    def __init__(self, file: BinaryIO, stopped: threading.Event) -> None:
        self._file, self._stopped = file, stopped
        self._left, self._sum = os.fstat(file.fileno()).st_size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        if self._stopped.is_set():
            msg = "the push was given up"
            raise RegistryFailed(msg)
        block = self._file.read(size)
        self._sum.update(block)
        self._left -= len(block)
        over = self._left <= 0 or not block
        if over and (found := self._sum.hexdigest()) != Path(self._file.name).name:
            msg = (
                f"{self._file.name} holds sha256:{found} now: something changed it since it was built and tested; "
                "remove the folder of its layout and run the same command again"
            )
            raise BuildFailed(msg)
        return block
