"""One call of the CLI from the queue to the removal of its folder, under one deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace

from claude_proxy import command, failures, gpu, mcp, models
from claude_proxy.cleanup import Cleanups
from claude_proxy.cli import Cli
from claude_proxy.conversation import Ask
from claude_proxy.events import Event, Finished, Reader, Started, TooMuchKeptError
from claude_proxy.folders import HISTORY, SERVERS, SYSTEM, Folder
from claude_proxy.gate.link import Link, NoGate
from claude_proxy.gate.rights import rights
from claude_proxy.launch import Launcher
from claude_proxy.places import Local, Place, Places
from claude_proxy.pool import Pool, Seat
from claude_proxy.process import Command, Exit, Processes, TooMuchOutputError
from claude_proxy.sandbox import Reach, Sandbox, reach
from claude_proxy.sessions import Session, Sessions
from claude_proxy.settings import Settings
from claude_proxy.slots import Slots
from claude_proxy.spares import Spare, Spares
from claude_proxy.workspace import Workspace
from serving.errors import ApiError

log = logging.getLogger("claude_proxy.calls")

SETTLE_SECONDS = 2.5
KEPT = 2
"""How many times the bytes of a whole session its new turns may take in memory."""
PROVIDER = "https://api.anthropic.com"
"""Where the CLI asks when it is told nothing else, and renews its login."""

Sink = Callable[[Event], Awaitable[None]]
"""Takes the events of one call as they come; the last is Finished."""


class Calls:
    """Runs the CLI, at most so many times at once. Made in the factory, started and closed by the event loop."""

    def __init__(self, settings: Settings, cli: Cli, sandbox: Sandbox, gate: Link | NoGate | None = None) -> None:
        self._settings = settings
        self._cli = cli
        self._sandbox = sandbox
        self._gate = gate or NoGate(settings)
        self._cleanups = Cleanups()
        self._processes = Processes(
            self._cleanups, Launcher(), sandbox.version, settings.bounds, settings.max_processes + settings.prestart
        )
        self._sessions = Sessions(settings.workspace / "sessions", settings.sessions)
        self.spares = Spares(
            settings.prestart,
            settings.prestart_seconds,
            self._start_spare,
            self._discard,
            lambda: bool(self.pool and self.pool.waiting),
        )
        self._looking: asyncio.Task[None] | None = None
        self.pool: Pool | None = None
        self._workspace: Workspace | None = None
        self.places: Places
        if settings.runners:
            queue = (settings.queue, settings.queue_seconds)
            self.pool = Pool(
                self._processes, settings.runners, settings.runner_uids, settings.bounds, *queue, self.spares
            )
            self.places = self.pool
        else:
            self._workspace = Workspace(settings.workspace)
            slots = Slots(settings.max_processes, settings.queue, settings.queue_seconds)
            self.places = Local(self._processes, self._workspace, slots, self.spares, settings.bounds)

    async def start(self) -> None:
        """Look at the CLI, and start the first one ahead; where there are runners, once the first is there."""
        self._sandbox.announce()
        await asyncio.to_thread(self._sessions.sweep)
        await self._gate.start()
        if self.pool:
            self.pool.on_first = self._first
            self.pool.open()
            return
        if self._settings.gpu:
            gpu.announce()
        place = self.places.reserve()
        assert place, "there is always room for a folder"
        await self._look(place)

    def _first(self, seat: Seat) -> None:
        self._looking = asyncio.create_task(self._look(seat))

    async def _look(self, place: Place) -> None:
        await self._cli.inspect(self._processes, place)
        if self._cli.version:
            self.spares.replenish()
        elif self.pool:
            self.pool.on_first = self._first  # perhaps another one's does work

    async def close(self) -> None:
        """End every CLI with all that came of it, within 2 s, and remove the workspace."""
        await self.spares.close()
        await self._processes.close()
        await self._gate.close()
        await self._cleanups.settled(SETTLE_SECONDS)
        if self.pool:
            self.pool.close()
        if self._workspace:
            self._workspace.close()

    async def run(self, ask: Ask, key: str, sink: Sink) -> None:
        """Ask the CLI on behalf of a key and pass its events to `sink`; raises ApiError for every way to fail.

        However it ends, nothing of the CLI is left when it returns.
        """
        if (ask.tools or ask.servers) and self._sandbox.lack:
            raise failures.sandbox_missing(self._sandbox.lack)
        try:
            async with asyncio.timeout(self._settings.deadline), self._session(ask, key) as session:
                whole = session.extend(ask) if session else ask
                async with self.places.take(whole) as (place, spare):
                    await self._asked(whole, session, sink, place, spare)
        except TimeoutError as error:
            raise failures.deadline(self._settings.deadline) from error

    @asynccontextmanager
    async def _session(self, ask: Ask, key: str) -> AsyncIterator[Session | None]:
        if not ask.session:
            yield None
            return
        opening = asyncio.ensure_future(asyncio.to_thread(self._sessions.open, key, ask.session))
        try:
            session = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: None if done.exception() else done.result().close())
            raise
        try:
            yield session
        finally:
            session.close()

    async def _asked(self, ask: Ask, session: Session | None, sink: Sink, place: Place, spare: Spare | None) -> None:
        token = spare.token if spare else self._gate.token()
        listener = self._listener(ask, session, sink)
        try:
            await sink(Started(ahead=spare is not None))
            async with self._gate.granted(token, rights(ask, self._settings)):
                if spare:
                    words = command.adjustments(ask, spare.model) + command.prompt(ask)
                    ended = await self._processes.converse(spare.running, words, listener)
                else:
                    prepared = await asyncio.to_thread(self._prepare, ask, place.folder, token)
                    running = await place.start(prepared)
                    ended = await self._processes.converse(running, prepared.stdin, listener)
                if ended is not None:
                    raise failures.runner_lost() if place.lost else self._failure(ended, place, token)
        except OSError as error:
            if place.lost:
                raise failures.runner_lost() from error
            log.exception("the CLI could not be started")
            raise failures.not_started(error.strerror or "see the log") from error
        except TooMuchOutputError as error:
            log.warning("the CLI was ended: it wrote %s", error)
            raise failures.too_large() from error
        finally:
            await self._cleanups.run(place.leave())
            self.spares.replenish()

    def _prepare(self, ask: Ask, folder: Folder, token: str) -> Command:
        """Return what to start in a folder, with the files that are to be there."""
        chosen = self._gate.settings(token)
        servers = {name: self._settings.servers[name] for name in ask.servers}
        files = {
            SYSTEM: ask.system.encode(),
            HISTORY: command.history(ask, folder, self._cli.version),
            SERVERS: mcp.document(servers) if servers else b"",
        }
        tools = bool(ask.tools or ask.servers)
        return Command(
            argv=command.argv(self._cli.path or self._settings.cli, ask, folder, chosen),
            env=command.environment(ask, folder, chosen),
            cwd=folder.work,
            stdin=command.prompt(ask),
            reach=self._reach(ask, folder, chosen),
            # It may be renewing its login, or have servers that want to say goodbye.
            gentle=bool(self._settings.login or ask.servers),
            tools=tools,
            gpu=self._settings.gpu and tools,
            # A runner looks up by itself where the gate is.
            datagrams=not (self.pool and chosen.egress) or any(server.urls for server in servers.values()),
            files={name: content for name, content in files.items() if content or name == SYSTEM},
        )

    def _reach(self, ask: Ask, folder: Folder, chosen: Settings) -> Reach:
        servers = [chosen.servers[name] for name in ask.servers]
        urls = [chosen.base_url or PROVIDER, *(url for server in servers for url in server.urls)]
        programs = [server.config["command"] for server in servers if "command" in server.config]
        readable = (*chosen.readable, *chosen.passed_on.values(), *programs)
        writable = () if chosen.login is None else (str(chosen.login),)
        if chosen.login is not None:
            urls.append(PROVIDER)
        # Looked for each time: a container may lose its devices. Without tools nothing runs that could use them. A runner
        # looks for its own.
        gpus = gpu.nodes() if chosen.gpu and (ask.tools or ask.servers) and not self.pool else ()
        return reach(self._cli.path or chosen.cli, folder.root, readable, writable, urls, gpus)

    async def _start_spare(self) -> Spare | None:
        ask = Ask(model=models.USUAL, system="", history=[], prompt=[])
        place = self.places.reserve()
        if place is None:
            return None
        # The gate does not know this one until a request takes the CLI: one that waits can ask for nothing.
        token = self._gate.token()
        try:
            prepared = await asyncio.to_thread(self._prepare, ask, place.folder, token)
            return Spare(place, await place.start(prepared), ask.model, token)
        except BaseException:
            await self._cleanups.run(place.leave())
            raise

    async def _discard(self, spare: Spare) -> None:
        await self._cleanups.run(self._processes.end(spare.running))
        await self._cleanups.run(spare.place.leave())

    def _failure(self, ended: Exit, place: Place, token: str) -> ApiError:
        """Log how a CLI ended that gave no result, and return what its client is told."""
        if ended.over:
            limit = asdict(place.bounds).get(ended.over)
            log.warning("a request was ended: it took too much", extra={"bound": ended.over, "limit": limit})
            return failures.over(ended.over, limit)
        complaint = ended.complaint
        if credential := self._gate.settings(token).credential:
            complaint = complaint.replace(credential.value.reveal(), "[REDACTED]")
        log.warning("the CLI ended without a result", extra={"code": ended.code, "stderr": complaint})
        return failures.crashed(ended.code)

    def _listener(self, ask: Ask, session: Session | None, sink: Sink) -> Callable[[bytes], Awaitable[bool]]:
        size = self._settings.sessions.size
        reader = Reader(ask.model, KEPT * size if session else 0)

        async def on_line(line: bytes) -> bool:
            try:
                event = reader.feed(line)
            except TooMuchKeptError as error:
                raise failures.session_too_long(ask.session, size) from error
            if event is None:
                return False
            if session and isinstance(event, Finished):
                # Before the client knows the end: its next request may come at once, and finds the session free.
                kept = await asyncio.to_thread(session.save, ask, event.turns, size)
                event = replace(event, kept=kept)
            await sink(event)
            return isinstance(event, Finished)

        return on_line
