"""`python -m serving.probe URL`: exit 0 if it answers 2xx within 2 s. The images' HEALTHCHECK, so it loads little.

A URL is `http://HOST:PORT/PATH` or, for a service that listens at a path, `unix:SOCKET:/PATH`. With `--end-after N` a
service at a loopback address that gives no answer N times in a row is ended, so that its container starts it anew.
"""

from __future__ import annotations

import socket
import sys
import time

SECONDS = 2.0
"""The deadline over the whole probe."""
USAGE = "usage: python -m serving.probe http://HOST:PORT/PATH [--end-after N]"

Address = tuple[str, int] | str
"""A host and a port, or the path of a unix socket."""


class Silence(str):
    """A fault, as one line: nothing came back in time. Who answers with an error, or hangs up, is alive."""

    __slots__ = ()


class Absence(Silence):
    """The same where nobody listens."""

    __slots__ = ()


def check(url: str, seconds: float = SECONDS) -> str | None:
    """Return None if `url` answers 2xx in time, else one line saying what is wrong."""
    target = parse(url)
    if target is None:
        return f"{url}: not of the form http://HOST:PORT/PATH"
    address, host, path = target
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        status = _ask(address, request.encode(), seconds)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        return Absence(f"{url}: {error}")
    except TimeoutError:
        return Silence(f"{url}: no answer within {seconds:g} s")
    except (OSError, OverflowError) as error:
        return f"{url}: {str(error) or type(error).__name__}"
    if len(status) > 1 and status[0].startswith(b"HTTP/") and status[1].startswith(b"2") and len(status[1]) == 3:
        return None
    return f"{url}: answered {b' '.join(status).decode('latin-1') or 'nothing'}"


def parse(url: str) -> tuple[Address, str, str] | None:
    """Return address, host and path of a URL, or None if it is none of those that can be asked."""
    if url.startswith("unix:"):
        place, _, path = url.removeprefix("unix:").rpartition(":/")
        return (place, "localhost", f"/{path}") if place else None
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    host, _, port = place.rpartition(":") if ":" in place else (place, "", "80")
    if scheme != "http" or not host or not port.isdigit():
        return None
    return (host.strip("[]"), int(port)), place, f"/{path}"


def _ask(address: Address, request: bytes, seconds: float) -> list[bytes]:
    """Return the words of the status line."""
    end = time.monotonic() + seconds
    answer = b""
    with _connect(address, seconds) as connection:
        connection.sendall(request)
        while b"\r\n" not in answer and len(answer) < 4096:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            chunk = connection.recv(1024)
            if not chunk:
                break
            answer += chunk
    return answer.partition(b"\r\n")[0].split()


def _connect(address: Address, seconds: float) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def judge(url: str, fault: str | None, limit: int) -> str:
    """Count a probe of `url`; after `limit` in vain in a row end the service. Return what to add to the fault."""
    from serving import tally

    target = parse(url)
    if target is None or isinstance(target[0], str) or target[0][0] not in ("127.0.0.1", "::1", "localhost"):
        return "; --end-after is for a service at a loopback address"
    port = target[0][1]
    path = tally.place(str(port))
    try:
        count = tally.add(path, _outcome(fault), tally.life())
    except OSError as error:
        return f"; cannot count failures in {path}: {error.strerror}" if fault else ""
    if not isinstance(fault, Silence) or not count:
        return ""
    if count < limit:
        return f" ({count} of {limit})"
    from serving import hung

    return hung.end(port, f"{fault} ({count} in a row)").removeprefix(fault)


def _outcome(fault: str | None) -> str:
    from serving import tally

    if isinstance(fault, Silence):
        return tally.ABSENT if isinstance(fault, Absence) else tally.SILENT
    return tally.ILL if fault else tally.WELL


def main(arguments: list[str]) -> int:
    """Probe the one URL given; 0 well, 1 not."""
    url, *more = arguments or [""]
    limit = int(more[1]) if len(more) == 2 and more[0] == "--end-after" and more[1].isdecimal() else 0
    fault = USAGE if not url or (more and not limit) else check(url)
    said = (fault or "") + (judge(url, fault, limit) if limit else "")
    if said:
        sys.stderr.write(said + "\n")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
