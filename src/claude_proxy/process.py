"""CLI processes as the event loop sees them: fed and drained throughout, and nothing left of them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import orjson

from claude_proxy.bounds import NAMES as BOUNDS
from claude_proxy.bounds import Bounds
from claude_proxy.cleanup import Cleanups
from claude_proxy.events import OMITTED
from claude_proxy.keeper import KILL, TERMINATE
from claude_proxy.launch import Launcher
from claude_proxy.sandbox import Reach

log = logging.getLogger("claude_proxy.process")

CHUNK = 64 * 1024
LONGEST_LINE = 8 << 20
"""In bytes. The CLI repeats whole messages in one line, images included; a longer one is left out unread, for no piece of
an answer is as long."""
MOST_OUTPUT, MOST_COMPLAINTS = 256 << 20, 8 << 20
"""In bytes: what a CLI may write in all, and what is read of its stderr. An answer of 128,000 tokens takes 40 MB."""
MOST_WORDS, LONGEST_WORD = 16, 64
"""Lines of a keeper, and the bytes of one: it has four words to say."""
END_SECONDS = 10.0
"""How long a keeper may take for its end. One that takes longer hangs, or stands still with its container."""
COMPLAINT = 2000
"""How many bytes of the end of stderr are kept."""
NUMBER = re.compile(r"-?[0-9]{1,9}")
OOM_SCORE, OOM_SCORE_WITH_TOOLS = 200, 500
"""oom_score_adj, in thousandths of the memory: a CLI goes before the proxy, one whose tools may take any amount first."""


class TooMuchOutputError(ValueError):
    """A CLI wrote more than any answer takes."""


OnLine = Callable[[bytes], Awaitable[bool]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Command:
    """What to start, and what it may reach. `stdin` is written to it, then its input ends.

    A `gentle` one is asked to end also when it has said all; others have nothing left to do then and are killed.
    One with `tools` is the first to go when memory ends, and with `gpu` it gets the GPUs that there are. `datagrams` are
    for who looks up names. The parent of
    `cwd` is all the disk that it has, with the `files` in it, by name.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stdin: bytes = b""
    reach: Reach = field(default_factory=Reach)
    gentle: bool = False
    tools: bool = False
    gpu: bool = False
    datagrams: bool = True
    files: Mapping[str, bytes] = field(default_factory=dict)


class Starter(Protocol):
    """What takes jobs for new processes."""

    def send(self, job: bytes, files: Sequence[int]) -> None:
        """Hand over a job with copies of these file descriptors; blocks for a moment. Raises OSError."""


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
        self._closed = False

    async def begin(self) -> None:
        """Wait until it runs; raises OSError when it could not be started."""
        try:
            word, value = await _word(self._keeper[0])
        except BaseException:
            self._close()
            raise
        if word != "pid":
            self._close()
            if word != "error":
                msg = "the launcher ended before it started the CLI"
                raise ConnectionResetError(msg)
            raise OSError(value, os.strerror(value))
        self._gone = asyncio.create_task(self._listen())

    async def converse(self, stdin: bytes, on_line: OnLine) -> Exit | None:
        """Give it its input and pass on each line of its output until `on_line` returns True (None), or it ends."""
        feeder = asyncio.create_task(_feed(self._stdin, stdin))
        drain = asyncio.create_task(_tail(self._stderr))
        try:
            async for line in lines(self._stdout):
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
        if self._closed:
            return
        try:
            with contextlib.suppress(OSError):
                self._keeper[1].write(self._end_by)
            async with asyncio.timeout(END_SECONDS):
                await self._ended()
        except TimeoutError:
            log.error("a keeper does not end: its socket is closed")
        finally:
            # Whoever is cancelled here leaves at once: the keeper kills everything when its socket ends.
            self._close()

    async def _ended(self) -> None:
        if self._gone is not None:
            await asyncio.shield(self._gone)

    async def _listen(self) -> None:
        for _ in range(MOST_WORDS):
            word, value = await _word(self._keeper[0])
            if word == "exit":
                self.exited = value
            elif word in BOUNDS:
                self.over, self.exited = word, -signal.SIGKILL
            elif not word:
                return
        log.error("a keeper says too much: its socket is closed")
        self._keeper[1].close()

    def abandon(self) -> None:
        """Let go of it: its runner is gone, and what is left of it ends with its sockets."""
        self._close()

    def _close(self) -> None:
        self._closed = True
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

    async def run(self, command: Command, on_line: OnLine, starter: Starter | None = None) -> Exit | None:
        """Run a command and pass on each line of its output, without the line end.

        Ends when `on_line` returns True (the result is then None), when it raises, when the process ends, or when the
        caller is cancelled; after each of these nothing of it is left. Raises OSError if the command cannot be started,
        TooMuchOutputError.
        """
        running = await self.start(command, starter)
        return await self.converse(running, command.stdin, on_line)

    async def converse(self, running: Running, stdin: bytes, on_line: OnLine) -> Exit | None:
        """The same with a process that was started before."""
        try:
            return await running.converse(stdin, on_line)
        finally:
            await self._cleanups.run(self.end(running))

    async def start(
        self, command: Command, starter: Starter | None = None, within: Mapping[str, object] | None = None
    ) -> Running:
        """Start a process that waits for its input, by the launcher or another starter; raises OSError.

        `within` says of the job what differs there.
        """
        starting = asyncio.ensure_future(self._start(command, starter, within or {}))
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

    async def _start(self, command: Command, starter: Starter | None, within: Mapping[str, object]) -> Running:
        try:
            return await self._try_to_start(command, starter or self._launcher, within)
        except ConnectionResetError:
            if starter:
                raise
            # A job that the launcher took with it into its death; the next send finds that out and starts another.
            return await self._try_to_start(command, self._launcher, within)

    async def _try_to_start(self, command: Command, starter: Starter, within: Mapping[str, object]) -> Running:
        ours, theirs = _sockets(4)
        try:
            job = {"argv": command.argv, "env": command.env, "cwd": str(command.cwd), "tools": command.tools}
            job |= {**self._every, **asdict(command.reach)}
            job["folder"] = str(command.cwd.parent)
            job["datagrams"] = command.datagrams
            job["oom_score_adj"] = OOM_SCORE_WITH_TOOLS if command.tools else OOM_SCORE
            await asyncio.to_thread(starter.send, orjson.dumps({**job, **within}), [each.fileno() for each in theirs])
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
    # A process that ends without reading its input says why by its exit code; one of a lost runner says nothing.
    with contextlib.suppress(OSError, RuntimeError):
        stdin.write(content)
        await stdin.drain()
        stdin.write_eof()


async def _tail(stderr: asyncio.StreamReader) -> str:
    tail, read = b"", 0
    # What comes after that stays in the socket, and its writer waits.
    while read < MOST_COMPLAINTS and (chunk := await stderr.read(CHUNK)):
        tail = (tail + chunk)[-COMPLAINT:]
        read += len(chunk)
    return tail.decode("utf-8", "replace").strip()


async def _word(keeper: asyncio.StreamReader) -> tuple[str, int]:
    """Return the next word of a keeper with its number; ("", 0) when there is none, or none that a keeper has."""
    try:
        line = await keeper.readline()
    except (OSError, ValueError):  # the socket broke, or a line without end
        return "", 0
    word, _, value = line[:LONGEST_WORD].decode("ascii", "replace").strip().partition(" ")
    if word == "over" and value in BOUNDS:
        return value, 0
    if word in ("pid", "error", "exit") and NUMBER.fullmatch(value):
        return word, int(value)
    return "", 0


async def lines(
    stdout: asyncio.StreamReader, longest: int = LONGEST_LINE, most: int = MOST_OUTPUT
) -> AsyncIterator[bytes]:
    """Yield lines of up to `longest` bytes, OMITTED for each longer one. StreamReader's own lines end at its buffer's size.

    Never more than one line is kept. Raises TooMuchOutputError after `most` bytes.
    """
    held, over, total = bytearray(), False, 0
    while chunk := await stdout.read(CHUNK):
        total += len(chunk)
        if total > most:
            msg = f"more than {most} bytes"
            raise TooMuchOutputError(msg)
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield OMITTED if over or len(held) + len(line) > longest else bytes(held + line)
            held, over = bytearray(), False
        over = over or len(held) + len(rest) > longest
        if over:
            held = bytearray()
        else:
            held += rest
    if held:
        yield bytes(held)
