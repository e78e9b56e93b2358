"""One call of the CLI from the queue to the removal of its folder, under one deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from claude_proxy import command, failures
from claude_proxy.cleanup import Cleanups
from claude_proxy.cli import Cli
from claude_proxy.command import Folder
from claude_proxy.conversation import Ask
from claude_proxy.events import Event, Finished, Reader
from claude_proxy.process import Command, Exit, Processes
from claude_proxy.settings import Settings
from claude_proxy.slots import Slots
from claude_proxy.workspace import Workspace, fill, remove

log = logging.getLogger("claude_proxy.calls")

SETTLE_SECONDS = 2.5

Sink = Callable[[Event], Awaitable[None]]
"""Takes the events of one call as they come; the last is Finished."""


class Calls:
    """Runs the CLI, at most so many times at once. Made in the factory, started and closed by the event loop."""

    def __init__(self, settings: Settings, cli: Cli) -> None:
        self._settings = settings
        self._cli = cli
        self._cleanups = Cleanups()
        self._processes = Processes(self._cleanups)
        self._workspace = Workspace(settings.workspace)
        self._slots = Slots(settings.max_processes, settings.queue, settings.queue_seconds)

    async def start(self) -> None:
        """Look at the CLI."""
        await self._cli.inspect(self._processes, self._workspace)

    async def close(self) -> None:
        """End every CLI with its group, within 2 s, and remove the workspace."""
        await self._processes.close()
        await self._cleanups.settled(SETTLE_SECONDS)
        self._workspace.close()

    async def run(self, ask: Ask, sink: Sink) -> None:
        """Ask the CLI and pass its events to `sink`; raises ApiError for every way to fail.

        However it ends, nothing of the CLI is left when it returns.
        """
        try:
            async with asyncio.timeout(self._settings.deadline), self._slots.take():
                await self._in_folder(ask, sink)
        except TimeoutError as error:
            raise failures.deadline(self._settings.deadline) from error

    async def _in_folder(self, ask: Ask, sink: Sink) -> None:
        folder = self._workspace.reserve()
        try:
            history = command.history(ask, folder, self._cli.version)
            await asyncio.to_thread(fill, folder, ask.system, history)
            ended = await self._processes.run(self._command(ask, folder), _listener(ask, sink))
        except OSError as error:
            log.exception("the CLI could not be started")
            raise failures.not_started(error.strerror or "see the log") from error
        finally:
            await self._cleanups.run(asyncio.to_thread(remove, folder))
        if ended is not None:
            self._log_crash(ended)
            raise failures.crashed(ended.code)

    def _command(self, ask: Ask, folder: Folder) -> Command:
        return Command(
            argv=command.argv(self._cli.path or self._settings.cli, ask, folder, self._settings),
            env=command.environment(ask, folder, self._settings),
            cwd=folder.work,
            stdin=command.prompt(ask),
        )

    def _log_crash(self, ended: Exit) -> None:
        complaint = ended.complaint
        if self._settings.credential:
            complaint = complaint.replace(self._settings.credential.value.reveal(), "[REDACTED]")
        log.warning("the CLI ended without a result", extra={"code": ended.code, "stderr": complaint})


def _listener(ask: Ask, sink: Sink) -> Callable[[bytes], Awaitable[bool]]:
    reader = Reader(ask.model)

    async def on_line(line: bytes) -> bool:
        event = reader.feed(line)
        if event is None:
            return False
        await sink(event)
        return isinstance(event, Finished)

    return on_line
