"""`python -m claude_proxy.gate CONTROL LISTENER URL`: the gate's process; the first two are inherited file descriptors.

The proxy tells it whom to let in over CONTROL, a JSON object a line; the end of that socket is the end of the gate.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import sys
from typing import Any

import orjson
import uvloop

from claude_proxy import kernel
from claude_proxy.gate.ledger import Account, Ledger, Rights
from claude_proxy.gate.provider import Provider
from claude_proxy.gate.server import Server
from serving import logs


class Control:
    """Hears the proxy: `grant` with token and rights, `revoke`, and `open` once, when it has said whom to let in at first.

    Says what was used: `run` with calls and tokens.
    """

    def __init__(self, base_url: str, listener: socket.socket, writer: asyncio.StreamWriter) -> None:
        self._listener = listener
        self._writer = writer
        self._ledger = Ledger()
        self.server = Server(self._ledger, Provider(base_url), self._report)

    def hear(self, line: bytes) -> None:
        """Do what the proxy says; each is answered by `done`, so that it knows when it holds."""
        said: dict[str, Any] = orjson.loads(line)
        if "open" in said:
            self.server.open(self._listener)
            return
        if "grant" in said:
            self._ledger.grant(said["grant"], Account(said["run"], Rights(**said["rights"])))
            self._say({"done": said["number"], "ended": None})
            return
        account = self._ledger.revoke(said["revoke"])
        ending = asyncio.ensure_future(self.server.end(account))
        ending.add_done_callback(lambda _done: self._say({"done": said["number"], "ended": said["run"]}))

    def _report(self, account: Account, refused: str) -> None:
        self._say({"run": account.number, "calls": account.calls, "tokens": account.tokens, "refused": refused})

    def _say(self, said: dict[str, Any]) -> None:
        self._writer.write(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))


async def serve(control: socket.socket, listener: socket.socket, base_url: str) -> None:
    """Serve until the proxy is gone."""
    reader, writer = await asyncio.open_connection(sock=control)
    heard = Control(base_url, listener, writer)
    while line := await reader.readline():
        heard.hear(line)


def main(control: int, listener: int, base_url: str) -> None:
    """Run the gate's process."""
    # The proxy ends it, when its own requests have ended.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    logs.setup("info", sys.stderr)
    kernel.hide()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A body that is read in a thread leaves the event loop its turns.
    sys.setswitchinterval(0.001)
    gc.freeze()
    uvloop.run(serve(socket.socket(fileno=control), socket.socket(fileno=listener), base_url))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
