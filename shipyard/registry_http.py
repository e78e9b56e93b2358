"""HTTP to one registry: only where it is safe to send, and with patience for what passes by itself."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from shipyard import plain_text, proxies, registry_documents
from shipyard.deadline import Deadline
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
#: Bytes of a file, or of an answer, that are read and sent at once.
_BLOCK = 256 * 1024
#: Bytes a second that an answer must bring on average, once it has taken as long as one may be silent.
_SLOWEST = 1024


class Passing(Exception):
    """A failure that may pass: tried again. ``after`` is how many seconds the registry asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Wrong(Passing):
    """Bytes whose digest is not the one that was asked for."""


@dataclass(frozen=True)
class Answer:
    """A response that was read; ``headers`` are those that are used, their names in lower case.

    Of one that was not kept, ``size`` and ``digest`` are those of its body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int = 0
    digest: str = ""


def loopback(host: str) -> bool:
    """Whether a registry (``HOST`` or ``HOST:PORT``) is on this machine: plain HTTP is spoken with no other."""
    return re.fullmatch(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", host) is not None


class Wire:
    """Sends requests to one registry (``HOST`` or ``HOST:PORT``); ``redact`` takes secrets out of what errors show.

    With a ``deadline`` everything that it does ends then, with TooLate.
    """

    def __init__(
        self,
        host: str,
        base: str,
        redact: Callable[[str], str],
        patience: float = PATIENCE,
        deadline: Deadline | None = None,
    ) -> None:
        self.host, self.base, self._redact, self._patience = host, base, redact, patience
        self._deadline = deadline
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
                if self._deadline and wait > self._deadline.left:
                    raise self._deadline.late(self._failure(what, problem)) from None
                tries += 1
                self._stopped.wait(wait)

    def _failure(self, what: str, problem: Passing) -> str:
        later = f" (it asks to wait {problem.after:g} s)" if problem.after else ""
        return self._redact(f"{self.host}: {what}: {problem}{later}; is the registry up and the address right?")

    def explain(self, answer: Answer) -> str:
        """What an answer says is wrong, in one line without secrets."""
        said = registry_documents.refusal(answer.body[:TEXT])
        # Redacted before anything of it is cut off or written in another way.
        words = " ".join(self._redact(f"status {answer.status} {said}").split())
        return plain_text.shown(words, 400)

    def follow(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Path | None, limit: int, keep: bool = True
    ) -> Answer:
        """Send, and for reads go where the registry keeps its blobs; a login is only ever sent to the registry itself."""
        for _ in range(_HOPS):
            self._allowed(url)
            if not url.startswith(self.base + "/"):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            answer = self.send(method, url, headers, body, limit, keep)
            if answer.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return answer
            url = self.target(url, answer.headers.get("location", ""))
        msg = f"{self.host} redirects without end"
        raise RegistryFailed(msg)

    def target(self, base: str, location: str) -> str:
        """Where something that the registry names is. Raises RegistryFailed for what is no address to follow."""
        try:
            found = registry_documents.target(base, location)
        except ValueError as problem:
            msg = f"{self.host}: {problem}"
            raise RegistryFailed(msg) from None
        self._allowed(found)
        return found

    def _allowed(self, url: str) -> None:
        """Plain HTTP is spoken with this machine alone, and nobody elsewhere sends us to a service of it."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback(parts.netloc) and loopback(self.host)):
            msg = f"{self.host} sends us to {parts.scheme}://{parts.netloc}, which is not HTTPS"
            raise RegistryFailed(msg)

    def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Path | None, limit: int, keep: bool = True
    ) -> Answer:
        """One request to this very URL; of an answer at most ``limit`` bytes are read, and only kept with ``keep``.

        Raises Passing for what may pass, TooLate, RegistryFailed for TLS that cannot be trusted and for a larger answer.
        """
        import urllib3.exceptions

        # What is asked for is never compressed: a small answer cannot become a large one.
        headers = {"User-Agent": "shipyard", "Accept-Encoding": "identity", **headers}
        where = urlsplit(url).netloc
        with ExitStack() as files:
            content: Any = body
            if isinstance(body, Path):
                handle = files.enter_context(_open(body))
                headers["Content-Length"] = str(os.fstat(handle.fileno()).st_size)
                content = _Sent(handle, self._stopped)
            try:
                return self._read(method, url, headers, content, limit, keep)
            except (urllib3.exceptions.HTTPError, HTTPException, ConnectionError, TimeoutError) as problem:
                if isinstance(problem, urllib3.exceptions.SSLError) and "EOF" not in str(problem):
                    msg = (
                        f"{where}: no TLS that can be trusted ({problem}); SSL_CERT_FILE names authorities of your own"
                    )
                    raise RegistryFailed(msg) from None
                reason = f"no answer from {where} ({_short(problem)})"
                raise Passing(reason) from None
            except ValueError as problem:
                msg = f"{self.host}: what it sent cannot be used: {problem}"
                raise RegistryFailed(msg) from None

    def _read(self, method: str, url: str, headers: dict[str, str], body: Any, limit: int, keep: bool) -> Answer:
        if self._deadline:
            self._deadline.check()
        response = self._pool(proxies.find(url)).request(
            method,
            url,
            headers=headers,
            body=body,
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=self._timeout(),
        )
        try:
            told = registry_documents.headers(response.headers)
            data, size, digest = self._body(response, method, url, limit, keep)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        answer = Answer(response.status, told, data, size, digest)
        if answer.status in _PASSING:
            reason = self.explain(answer)
            if os.strerror(errno.ENOSPC) in reason:
                msg = f"{self.host} cannot store what it is sent: {reason}; make room there and run the same command again"
                raise RegistryFailed(msg)
            raise Passing(reason, seconds(answer.headers.get("retry-after", ""), time.time()))
        return answer

    def _body(
        self, response: urllib3.BaseHTTPResponse, method: str, url: str, limit: int, keep: bool
    ) -> tuple[bytes, int, str]:
        """What is there of it as it comes, its size, and its digest where it is not kept.

        Of an error's text, which is kept in any case, the first bytes do.
        """
        data, size, sum256, begun = bytearray(), 0, hashlib.sha256(), time.monotonic()
        good = response.status < 400
        keep, limit = keep or not good, limit if good else TEXT
        while method != "HEAD" and (block := response.read1(_BLOCK)):
            size += len(block)
            if keep:
                data += block
            else:
                sum256.update(block)
            if size > limit and not good:
                response.close()
                return bytes(data[:limit]), limit, ""
            if size > limit:
                msg = f"{self.host}: an answer of more than {limit} bytes to {method} {urlsplit(url).path}"
                raise RegistryFailed(msg)
            if self._stopped.is_set():
                msg = f"{self.host}: {method} {urlsplit(url).path} was given up"
                raise RegistryFailed(msg)
            if self._deadline:
                self._deadline.check()
            if size < _SLOWEST * (time.monotonic() - begun - _READ):
                msg = f"{self.host} sends its answer too slowly: {size} bytes in {time.monotonic() - begun:.0f} s"
                raise RegistryFailed(msg)
        return bytes(data), size, "" if keep else "sha256:" + sum256.hexdigest()

    def _timeout(self) -> urllib3.Timeout:
        """Seconds for a connection, and for the next bytes."""
        import urllib3

        # Who has little patience does not wait long for a registry that hangs either.
        longest = max(self._patience, 1.0)
        if self._deadline:
            longest = min(longest, max(self._deadline.left, 0.01))
        return urllib3.Timeout(connect=min(_CONNECT, longest), read=min(_READ, longest))

    def _pool(self, proxy: str) -> urllib3.PoolManager:
        """Connections by way of a proxy, or straight ones for ``""``."""
        import urllib3

        with self._making:
            if proxy not in self._made:
                options: Any = {"maxsize": 8, "blocksize": _BLOCK}
                self._made[proxy] = proxies.through(proxy, **options) if proxy else urllib3.PoolManager(**options)
            return self._made[proxy]


def seconds(retry_after: str, now: float) -> float:
    """How long ``Retry-After`` asks to wait: seconds, or a date (RFC 9110, 10.2.3); 0 when it says neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0


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
