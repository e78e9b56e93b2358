"""`python -m serving.probe URL`: exit 0 if it answers 2xx within 2 s. The images' HEALTHCHECK, so it loads little."""

from __future__ import annotations

import socket
import sys
import time

SECONDS = 2.0
"""The deadline over the whole probe."""


def check(url: str, seconds: float = SECONDS) -> str | None:
    """Return None if `url` (http only) answers 2xx in time, else one line saying what is wrong."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    host, _, port = place.rpartition(":") if ":" in place else (place, "", "80")
    if scheme != "http" or not host or not port.isdigit():
        return f"{url}: not of the form http://HOST:PORT/PATH"
    request = f"GET {slash}{path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
    if not slash:
        request = request.replace("GET ", "GET /", 1)
    try:
        status = _ask((host.strip("[]"), int(port)), request.encode(), seconds)
    except (OSError, OverflowError) as error:
        return f"{url}: {str(error) or type(error).__name__}"
    if len(status) > 1 and status[0].startswith(b"HTTP/") and status[1].startswith(b"2") and len(status[1]) == 3:
        return None
    return f"{url}: answered {b' '.join(status).decode('latin-1') or 'nothing'}"


def _ask(address: tuple[str, int], request: bytes, seconds: float) -> list[bytes]:
    """Return the words of the status line."""
    end = time.monotonic() + seconds
    answer = b""
    with socket.create_connection(address, seconds) as connection:
        connection.sendall(request)
        while b"\r\n" not in answer and len(answer) < 4096:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            chunk = connection.recv(1024)
            if not chunk:
                break
            answer += chunk
    return answer.partition(b"\r\n")[0].split()


def main(arguments: list[str]) -> int:
    """Probe the one URL given; 0 well, 1 not."""
    fault = check(arguments[0]) if len(arguments) == 1 else "usage: python -m serving.probe http://HOST:PORT/PATH"
    if fault:
        sys.stderr.write(fault + "\n")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
