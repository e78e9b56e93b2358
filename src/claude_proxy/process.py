"""The only place that starts a process: fed and drained throughout, ended with its whole group in any case."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from claude_proxy.cleanup import Cleanups

log = logging.getLogger("claude_proxy.process")

CHUNK = 64 * 1024
LONGEST_LINE = 64 * 1024 * 1024
"""In bytes. The CLI repeats whole messages in one line, images included; a longer one is no answer of a model."""
COMPLAINT = 2000
"""How many bytes of the end of stderr are kept."""
GRACE_SECONDS = 1.5
"""From SIGTERM to SIGKILL; together with the kill itself it stays below 2 s."""

OnLine = Callable[[bytes], Awaitable[bool]]


@dataclass(frozen=True)
class Command:
    """What to start. `stdin` is written to it, then its input ends."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stdin: bytes = b""


@dataclass(frozen=True)
class Exit:
    """How a process ended by itself: its code (negative: the signal) and the last of what it wrote to stderr."""

    code: int
    complaint: str


class Processes:
    """Every process that lives now."""

    def __init__(self, cleanups: Cleanups) -> None:
        self._cleanups = cleanups
        self._live: set[Process] = set()

    async def run(self, command: Command, on_line: OnLine) -> Exit | None:
        """Run a command and pass on each line of its output, without the line end.

        Ends when `on_line` returns True (the result is then None), when it raises, when the process ends, or when the
        caller is cancelled; after each of these nothing of the process's group is left. Raises OSError if the command
        cannot be started, ValueError for a line that is too long.
        """
        process = await self._start(command)
        assert process.stdin and process.stdout and process.stderr
        feeder = asyncio.create_task(_feed(process.stdin, command.stdin))
        drain = asyncio.create_task(_tail(process.stderr))
        try:
            async for line in _lines(process.stdout):
                if await on_line(line):
                    return None
            return Exit(await process.wait(), await drain)
        finally:
            feeder.cancel()
            await self._cleanups.run(self._end(process))
            drain.cancel()

    async def close(self) -> None:
        """End everything that still runs, within 2 s."""
        await asyncio.gather(*(self._end(process) for process in list(self._live)))

    async def _start(self, command: Command) -> Process:
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *command.argv,
                env=command.env,
                cwd=command.cwd,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The process may exist already: a cancelled start would leave it without anybody who knows of it.
            with contextlib.suppress(OSError):
                await self._cleanups.run(self._end(await starting))
            raise
        self._live.add(process)
        return process

    async def _end(self, process: Process) -> None:
        try:
            if process.returncode is None:
                _signal(process.pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE_SECONDS):
                        await process.wait()
            # Also when the leader has ended: its children may live on in the group.
            _signal(process.pid, signal.SIGKILL)
            await process.wait()
        except asyncio.CancelledError:
            _signal(process.pid, signal.SIGKILL)
            raise
        finally:
            self._live.discard(process)


def _signal(group: int, number: signal.Signals) -> None:
    # A group of that number exists as long as a member lives; the kernel does not give the number away before.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


async def _feed(stdin: asyncio.StreamWriter, content: bytes) -> None:
    # A process that ends without reading its input says why by its exit code.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(content)
        await stdin.drain()
    stdin.close()


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
            raise ValueError(msg)
    if last := b"".join(parts):
        yield last
