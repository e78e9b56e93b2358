"""uvicorn's HTTP/1.1 protocol with bounds on what a slow or abusive client can hold: time, headers, connections.

A connection costs no timer: a sweep over all of them each second finds the slow ones, and requests pay next to nothing.
Memory is bounded too: uvicorn stops reading a body beyond 64 KiB that the application does not take, and stops an
application that sends more than 64 KiB beyond what its client reads; such a client is cut off after WRITE_SECONDS.

A client that has shown no valid key (`serving.auth` tells) has less of everything; see `serving.strangers`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving import framing, strangers
from serving.errors import ApiError
from serving.joined import JoinedWrites
from serving.options import MAX_CONNECTIONS, REQUEST_SECONDS
from serving.strangers import LINGER_BYTES, LINGER_SECONDS, Room, Strangers

HEAD_BYTES = 64 * 1024
"""All header fields of a request together, and whatever else comes with neither a body nor an end: nginx allows 32 KiB."""
HEADERS = 100
"""Header fields of one request: Apache's limit."""
DRIP_FACTOR = 10
"""How many times the seconds for a head a whole request may take: 300 s, for 20 MiB by half a megabit a second."""
WRITE_SECONDS = 300.0
"""How long a client may read nothing of an answer that waits for it: long enough for a person at a breakpoint."""
SPARE_CONNECTIONS = 256
"""Connections above the limit that are told so; any beyond these are closed without a word."""

SLOW = ApiError(408, "The request did not arrive in time; send it at once.", code="request_timeout")
LARGE = f"The request's headers are too large; the most are {HEADERS} headers and {HEAD_BYTES // 1024} KiB."
TOO_LARGE = ApiError(431, LARGE, code="headers_too_large")
MALFORMED = ApiError(400, "This is not a valid HTTP/1.1 request.", code="invalid_http")
BUSY = ApiError(
    503,
    "Too many connections; try again.",
    type="server_error",
    code="too_many_connections",
    headers={"retry-after": "1"},
)


@dataclass(frozen=True)
class Limits:
    """`request_seconds`: for the head of a request, and for silence in its body; `connections`: open at a time.

    Both are for clients with a key; `stranger_seconds` and `room` are for those that have shown none.
    """

    request_seconds: float = REQUEST_SECONDS
    connections: int = MAX_CONNECTIONS
    stranger_seconds: float = strangers.SECONDS

    @property
    def room(self) -> Room:
        """How many clients without a key there may be besides."""
        return Room.beside(self.connections)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its owner calls `sweep` about once a second."""

    limits: ClassVar[Limits] = Limits()
    strangers: ClassVar[Strangers] = Strangers(Limits().room)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin; above the limit of connections nothing is read but what was asked, to be refused."""
        super().connection_made(transport)
        self.transport = JoinedWrites(transport, self.loop)  # type: ignore[assignment]  # a transport in all but its type
        self.made = self._since = self._begun = self._stalled_since = self.loop.time()
        self._waiting_bytes = 0
        self._unused_bytes = 0
        self._head_is_whole = False
        self._last_scope: Any = None
        self._refusal: ApiError | None = None
        self._refused = False
        self._last_request = False
        self._answered_early = False
        self._head_at = self.made
        self._left = LINGER_BYTES
        excess = len(self.connections) - len(self.strangers) - self.limits.connections
        if not self.strangers.add(self, self.made) or excess > SPARE_CONNECTIONS:
            transport.abort()
        elif excess > 0:
            self._refusal = BUSY

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.strangers.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a head or trailer that goes on and on is refused."""
        if self._refused or self._answered_early:
            self._left -= len(data)
            if self._left < 0:
                self.transport.abort()
            return
        if self._refusal:
            self._refuse(self._refusal)
            return
        self._unused_bytes += len(data)
        super().data_received(data)
        if (self._unused_bytes > HEAD_BYTES or (self.headers and len(self.headers) > HEADERS)) and not self._refused:
            self._refuse(TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._head_is_whole = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one after the body is refused, for it would count as one of the head."""
        if self._head_is_whole:
            self._give_up("Headers after the body (trailers) are not taken.")
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """Take the length of a chunk; what else stands on its line is counted like a head."""
        self._unused_bytes -= framing.CHUNK_BYTES

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large."""
        # Bytes that came together with the head may be of its body: only then is the head measured by itself.
        if len(self.headers) > HEADERS or (self._unused_bytes > HEAD_BYTES and self._head_bytes() > HEAD_BYTES):
            self._give_up(TOO_LARGE)
        upgrades = self.parser.should_upgrade()
        if told := framing.fault(self.parser.get_http_version(), self.url, self.headers, upgrades):
            self._give_up(told)
        self._head_is_whole = True
        super().on_headers_complete()
        self._head_at = self.loop.time()
        if self in self.strangers:
            self.scope["state"]["admit"] = self.admit
        # An answer that comes before the end of the body must not close the connection: with unread bytes that would be
        # a reset, and whoever still sends, a balancer too, might never see the answer.
        self._last_request = not self.cycle.keep_alive
        self.cycle.keep_alive = True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body: the client makes progress."""
        self._unused_bytes = max(0, self._unused_bytes - len(body))
        if not self.cycle.response_complete:
            # The rest of a body whose answer is already there only has the time of a head.
            self._since = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._unused_bytes = 0
        if self._last_request:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        super().on_message_complete()

    def _give_up(self, why: str | ApiError) -> NoReturn:
        """Refuse the request from within the parser: it gives up then, and uvicorn calls send_400_response."""
        self._refusal = ApiError(400, why, code="invalid_http") if isinstance(why, str) else why
        raise ValueError(self._refusal.message)

    def on_response_complete(self) -> None:
        """Go on with the next request; of a client without a key neither a rest of this one nor a next one is waited for."""
        more = bool(self.pipeline) or self.cycle.more_body
        last = more and self in self.strangers and not self.transport.is_closing()
        if last:
            self.pipeline.clear()
        super().on_response_complete()
        if last:
            self._answered_early = True
            self._since = self.loop.time()
            self.transport.write_eof()

    def admit(self) -> None:
        """Count this as the connection of a client with a key from now on."""
        self.strangers.discard(self)

    @property
    def source(self) -> str:
        """The client's address, empty at a unix socket."""
        return self.client[0] if self.client else ""

    def waits(self, now: float) -> bool:
        """Tell whether it is the client's turn, and not only because its head has just come."""
        cycle = self.cycle
        if self._refused or self._answered_early or cycle is None or cycle.response_complete:
            return True
        return cycle.more_body and now - self._head_at > strangers.GRACE_SECONDS

    def drop(self) -> None:
        """Close at once."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not understand, or what was found too large while it parsed."""
        self._refuse(self._refusal or MALFORMED)

    def shutdown(self) -> None:
        """End as soon as the present answer is given."""
        if self._refused or self._answered_early:
            self.transport.close()
        else:
            super().shutdown()

    def sweep(self, now: float) -> None:
        """Close the connection if its client is too slow; `now` is the event loop's time."""
        if self._is_stalled(now):
            self.transport.abort()
        elif self.transport.is_closing() or self._is_our_turn():
            self._since = now
        elif self._drips(now) or now - self._since > self._patience():
            if self._refused or self._answered_early or self._is_silent():
                self.transport.close()
            else:
                self._refuse(SLOW)

    def _is_our_turn(self) -> bool:
        """Tell whether the client has to wait, or has begun another request since the last look."""
        if self._answered_early:
            return False
        if self.scope is not self._last_scope:
            self._last_scope = self.scope
            self._begun = self.loop.time()
            return True
        if self._refused:
            return False
        cycle = self.cycle
        waited_for = not cycle.more_body or cycle.waiting_for_100_continue if cycle else False
        return self.flow.read_paused or (waited_for and not cycle.response_complete)

    def _patience(self) -> float:
        if self._refused or self._refusal or self._answered_early:
            return LINGER_SECONDS
        if self in self.strangers:
            return min(self.limits.request_seconds, self.limits.stranger_seconds)
        return self.limits.request_seconds

    def _drips(self, now: float) -> bool:
        """Tell whether a request goes on arriving, but far too slowly."""
        seconds = DRIP_FACTOR * self.limits.request_seconds
        if self in self.strangers:
            seconds = min(seconds, 2 * self.limits.stranger_seconds)
        return not self._refused and now - self._begun > seconds

    def _is_silent(self) -> bool:
        """Tell whether nothing of a request has come: there is nothing to answer."""
        complete = self.cycle is None or self.cycle.response_complete
        return complete and (self.scope is None or "path" in self.scope)

    def _is_stalled(self, now: float) -> bool:
        counts = self.flow.write_paused or self.transport.is_closing()
        waiting = self.transport.get_write_buffer_size() if counts else 0
        stranger = self in self.strangers
        # Without a key, reading a little now and then is not enough.
        if not waiting or (waiting != self._waiting_bytes and not stranger):
            self._stalled_since = now
        self._waiting_bytes = waiting
        return now - self._stalled_since > (2 * self.limits.stranger_seconds if stranger else WRITE_SECONDS)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _refuse(self, error: ApiError) -> None:
        """Say why, unless an answer has begun, and heed nothing more; the sweep closes the connection soon."""
        self._refused = True
        self._since = self.loop.time()
        cycle = self.cycle
        begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application sees a client that left
            cycle.message_event.set()
        if begun:
            self.transport.close()
            return
        self.transport.write(_rendered(error, self.server_state.default_headers))
        # Closing with unread bytes would reset the connection, and the client might never see the answer.
        self.transport.write_eof()


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """Return the protocol with these limits: uvicorn makes one for each connection and passes no limits of ours."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits, "strangers": Strangers(limits.room)})


def _rendered(error: ApiError, more: list[tuple[bytes, bytes]]) -> bytes:
    body = error.body()
    headers = [
        *(each for each in more if each[0] != b"connection"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    return b"".join([STATUS_LINE[error.status], *(b"%b: %b\r\n" % each for each in headers), b"\r\n", body])
