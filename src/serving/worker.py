"""Serves one application on a listening socket until told to stop, and lets running requests finish."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from serving.health import Health
from serving.listener import address
from serving.options import Options
from serving.protocol import SPARE_CONNECTIONS, BoundedProtocol, Limits, bounded
from serving.strangers import Room

log = logging.getLogger("serving.worker")

TICK_SECONDS = 1.0
"""How often the `date` header is renewed and slow clients are looked for."""
SETTLE_SECONDS = 0.1
"""How long a connection without a request stays open at the end: its request may be under way."""
HANDOVER_SETTLE_SECONDS = 2.0
"""The same while another worker already serves new connections, so that waiting costs nothing."""
FLUSH_SECONDS = 5.0
"""How long clients may take to read the last bytes of finished answers."""
POLL_SECONDS = 0.02


def build(options: Options, health: Health) -> Any:
    """Import the factory named by `options.app` and return its application. Raises SettingsError."""
    module, _, function = options.app.partition(":")
    return getattr(importlib.import_module(module), function)(health)


def serve(options: Options, listener: socket.socket, attach: Callable[[Worker], None] | None = None) -> int:
    """Serve until a signal; return the exit code: 0 after a drain, 1 when a second signal cut it short.

    `attach` is called in the running event loop once requests are accepted.
    """
    health = Health(options.service, options.place, options.notice_seconds)
    allow_files(options.max_connections)
    config = uvicorn.Config(
        build(options, health),
        loop="uvloop",
        http=bounded(Limits(options.request_seconds, options.max_connections)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    worker = Worker(config, health, options.drain_seconds, attach)
    worker.run(sockets=[listener])
    if not worker.started:
        return 1
    return 1 if worker.force_exit else 0


def allow_files(connections: int) -> None:
    """Raise the process's limit of open files to what so many connections may need, as far as it is allowed."""
    # Each client may have a connection to an upstream of its own; the rest is for libraries and log files.
    wanted = 2 * connections + Room.beside(connections).most + SPARE_CONNECTIONS + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed < wanted:
        log.warning("only %d files may be open: fewer than %d connections will work", allowed, connections)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class Worker(uvicorn.Server):
    """uvicorn's server with an end of its own: prompt when idle, patient with running requests."""

    def __init__(
        self,
        config: uvicorn.Config,
        health: Health,
        drain_seconds: float,
        attach: Callable[[Worker], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._health = health
        self._drain_seconds = drain_seconds
        self._attach = attach
        self._handover = False
        self._signals = 0
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept requests, then say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.should_exit:
            return
        self._loop.add_signal_handler(signal.SIGHUP, self._health.reloaded)
        self._sweep(self._loop)
        # What is loaded by now stays: the collector need not look at it again, nor after every 700 new objects.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        self._health.started()
        places = [address(each) for each in sockets or []]
        log.info("ready", extra={"service": self._health.service, "address": ", ".join(places), "pid": os.getpid()})
        if self._attach:
            self._attach(self)

    async def main_loop(self) -> None:
        """Wait for the stop; uvicorn's own loop would notice it up to 0.1 s late."""
        while not await self.on_tick(0):
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: end at once."""
        self._signals += 1
        if self._signals > 1:
            self.force_exit = True
        self._begin_to_stop()

    def hand_over(self) -> None:
        """Another worker took over: accept nothing more, finish what runs."""
        self._handover = True
        self._begin_to_stop()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._health.handed_over)

    def abandon(self) -> None:
        """Nobody is left to supervise this worker: end at once."""
        self.force_exit = True
        self._begin_to_stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take new requests for a moment more, finish what runs within the drain time, then close everything.

        Until the end the socket still answers (readiness says draining), unless another worker took it over.
        """
        tasks, connections = self.server_state.tasks, self.server_state.connections
        # Every answer from now on says so, so that no client sends its next request into a closing connection.
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        if self._handover:
            self._close_listeners(sockets)
        log.info("draining", extra={"pid": os.getpid(), "requests": len(tasks), "handover": self._handover})
        end = time.monotonic() + self._drain_seconds
        settled = self._now() + (HANDOVER_SETTLE_SECONDS if self._handover else SETTLE_SECONDS)
        if not self._handover:
            await self._until(lambda: self._health.refuses, end)
        await self._until(lambda: self._hang_up(settled) and not tasks, end)
        self._close_listeners(sockets)
        for task in list(tasks):
            task.cancel()
        await self._until(lambda: self._hang_up(0) and not tasks and not connections, time.monotonic() + FLUSH_SECONDS)
        await self.lifespan.shutdown()
        log.info("stopped", extra={"pid": os.getpid(), "cut": self.force_exit})

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(TICK_SECONDS, self._sweep, loop)
        for connection in list(self.server_state.connections):
            assert isinstance(connection, BoundedProtocol)
            connection.sweep(loop.time())

    def _begin_to_stop(self) -> None:
        self.should_exit = True
        if not self._handover:
            self._health.draining()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def _hang_up(self, settled: float) -> bool:
        """Close idle connections, let busy ones end after their answer; False while unused ones may still ask."""
        unused = False
        for connection in list(self.server_state.connections):
            assert isinstance(connection, BoundedProtocol)
            patient = self._now() < max(settled, connection.made + SETTLE_SECONDS) and not self.force_exit
            if patient and connection.cycle is None:
                unused = True
            else:
                connection.shutdown()
        return not unused

    def _now(self) -> float:
        assert self._loop, "only while serving"
        return self._loop.time()

    async def _until(self, done: Callable[[], bool], end: float) -> None:
        # uvicorn keeps its tasks and connections in plain sets, which nothing can be awaited on.
        while not done() and time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _close_listeners(self, sockets: list[socket.socket] | None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
