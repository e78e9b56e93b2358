"""CLI processes as the event loop sees them: fed and drained throughout, and nothing left of them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from claude_proxy.bounds import Bounds
from claude_proxy.cleanup import Cleanups
from claude_proxy.keeper import KILL, TERMINATE
from claude_proxy.launch import Launcher
from claude_proxy.sandbox import Reach

log = logging.getLogger("claude_proxy.process")

CHUNK = 64 * 1024
LONGEST_LINE = 64 * 1024 * 1024
"""In bytes. The CLI repeats whole messages in one line, images included; a longer one is no answer of a model."""
COMPLAINT = 2000
"""How many bytes of the end of stderr are kept."""
OOM_SCORE, OOM_SCORE_WITH_TOOLS = 200, 500
"""oom_score_adj, in thousandths of the memory: a CLI goes before the proxy, one whose tools may take any amount first."""


class LineTooLongError(ValueError):
    """A CLI said more in one line than any answer takes."""


OnLine = Callable[[bytes], Awaitable[bool]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Command:
    """What to start, and what it may reach. `stdin` is written to it, then its input ends.

    A `gentle` one is asked to end also when it has said all; others have nothing left to do then and are killed.
    One with `tools` is the first to go when memory ends. The parent of `cwd` is all the disk that it has.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stdin: bytes = b""
    reach: Reach = field(default_factory=Reach)
    gentle: bool = False
    tools: bool = False


@dataclass(frozen=True)
class Exit:
    """How a process ended: its code (negative: the signal) and the last of what it wrote to stderr.

    `over` names the bound that it passed, which is why it was killed; nothing when it ended by itself.
    """

    code: int
    complaint: str
    over: str = ""


class Running:
    """One process with its keeper. `exited` is its code once it ended by itself, `over` the bound that it passed."""

    def __init__(self, stdin: Streams, stdout: Streams, stderr: Streams, keeper: Streams) -> None:
        self.exited: int | None = None
        self.over = ""
        self.gentle = True
        self._end_by = TERMINATE
        self._stdin, self._stdout, self._stderr, self._keeper = stdin[1], stdout[0], stderr[0], keeper
        self._writers = [each[1] for each in (stdin, stdout, stderr, keeper)]
        self._gone: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Wait until it runs; raises OSError when it could not be started."""
        word, _, value = (await self._keeper[0].readline()).decode().partition(" ")
        if word != "pid":
            self._close()
            number = int(value or 0)
            if not word:
                msg = "the launcher ended before it started the CLI"
                raise ConnectionResetError(msg)
            raise OSError(number, os.strerror(number))
        self._gone = asyncio.create_task(self._listen())

    async def converse(self, stdin: bytes, on_line: OnLine) -> Exit | None:
        """Give it its input and pass on each line of its output until `on_line` returns True (None), or it ends."""
        feeder = asyncio.create_task(_feed(self._stdin, stdin))
        drain = asyncio.create_task(_tail(self._stderr))
        try:
            async for line in _lines(self._stdout):
                if await on_line(line):
                    self._end_by = TERMINATE if self.gentle else KILL
                    return None
            await self._ended()
            return Exit(-signal.SIGKILL if self.exited is None else self.exited, await drain, self.over)
        finally:
            feeder.cancel()
            drain.cancel()

    async def end(self) -> None:
        """End it with every process that came of it, within 2 s."""
        try:
            with contextlib.suppress(OSError):
                self._keeper[1].write(self._end_by)
            await self._ended()
        finally:
            # Whoever is cancelled here leaves at once: the keeper kills everything when its socket ends.
            self._close()

    async def _ended(self) -> None:
        if self._gone is not None:
            await asyncio.shield(self._gone)

    async def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while line := await self._keeper[0].readline():
                word, _, value = line.decode().partition(" ")
                if word == "exit":
                    self.exited = int(value)
                elif word == "over":
                    self.over, self.exited = value.strip(), -signal.SIGKILL

    def _close(self) -> None:
        for each in self._writers:
            each.close()


class Processes:
    """Every process that lives now, started by the launcher in the sandbox of this ABI (0: in none).

    `requests` of them may live at once, each within `bounds`.
    """

    def __init__(
        self, cleanups: Cleanups, launcher: Launcher, abi: int = 0, bounds: Bounds | None = None, requests: int = 1
    ) -> None:
        self._cleanups = cleanups
        self._launcher = launcher
        self._every = {"abi": abi, "bounds": asdict(bounds or Bounds()), "requests": requests}
        self._live: set[Running] = set()

    def __len__(self) -> int:
        return len(self._live)

    async def run(self, command: Command, on_line: OnLine) -> Exit | None:
        """Run a command and pass on each line of its output, without the line end.

        Ends when `on_line` returns True (the result is then None), when it raises, when the process ends, or when the
        caller is cancelled; after each of these nothing of it is left. Raises OSError if the command cannot be started,
        LineTooLongError.
        """
        running = await self.start(command)
        return await self.converse(running, command.stdin, on_line)

    async def converse(self, running: Running, stdin: bytes, on_line: OnLine) -> Exit | None:
        """The same with a process that was started before."""
        try:
            return await running.converse(stdin, on_line)
        finally:
            await self._cleanups.run(self.end(running))

    async def start(self, command: Command) -> Running:
        """Start a process that waits for its input; raises OSError."""
        starting = asyncio.ensure_future(self._start(command))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The process may exist already: a cancelled start would leave it without anybody who knows of it.
            with contextlib.suppress(OSError):
                await self._cleanups.run(self.end(await starting))
            raise

    async def end(self, running: Running) -> None:
        """End a process with all that came of it, within 2 s."""
        try:
            await running.end()
        finally:
            self._live.discard(running)

    async def close(self) -> None:
        """End everything that still runs, within 2 s, and the launcher."""
        await asyncio.gather(*(self.end(each) for each in list(self._live)))
        self._launcher.close()

    async def _start(self, command: Command) -> Running:
        try:
            return await self._try_to_start(command)
        except ConnectionResetError:
            # A job that the launcher took with it into its death; the next send finds that out and starts another.
            return await self._try_to_start(command)

    async def _try_to_start(self, command: Command) -> Running:
        ours, theirs = _sockets(4)
        try:
            job = {"argv": command.argv, "env": command.env, "cwd": str(command.cwd), "tools": command.tools}
            job |= self._every | asdict(command.reach)
            job["folder"] = str(command.cwd.parent)
            job["oom_score_adj"] = OOM_SCORE_WITH_TOOLS if command.tools else OOM_SCORE
            await asyncio.to_thread(self._launcher.send, orjson.dumps(job), [each.fileno() for each in theirs])
            running = Running(*[await asyncio.open_unix_connection(sock=each) for each in ours])
        except BaseException:
            for each in ours:
                each.close()
            raise
        finally:
            for each in theirs:
                each.close()
        running.gentle = command.gentle
        await running.begin()
        self._live.add(running)
        return running


def _sockets(count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    pairs = [socket.socketpair() for _ in range(count)]
    for ours, _ in pairs:
        ours.setblocking(False)
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


async def _feed(stdin: asyncio.StreamWriter, content: bytes) -> None:
    # A process that ends without reading its input says why by its exit code.
    with contextlib.suppress(OSError):
        stdin.write(content)
        await stdin.drain()
        stdin.write_eof()


async def _tail(stderr: asyncio.StreamReader) -> str:
    tail = b""
    while chunk := await stderr.read(CHUNK):
        tail = (tail + chunk)[-COMPLAINT:]
    return tail.decode("utf-8", "replace").strip()


async def _lines(stdout: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: StreamReader's own lines end at its buffer's size."""
    parts: list[bytes] = []
    size = 0
    while chunk := await stdout.read(CHUNK):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*parts, line])
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > LONGEST_LINE:
            msg = f"a line of more than {LONGEST_LINE} bytes"
            raise LineTooLongError(msg)
    if last := b"".join(parts):
        yield last
