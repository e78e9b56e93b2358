"""One local model: not loaded, starting, ready, or left alone for a while after it failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import aiohttp

from llm_call.api.local.process import NOTICE_SECONDS, Process
from llm_call.api.local.recipe import AT_ONCE, Recipe
from llm_call.api.local.refusals import Ended, Refused

log = logging.getLogger("llm_call.local")

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Pauses double with every failure in a row, from the first to the longest."""
STEADY_SECONDS = 60.0
"""Who ran for so long before it failed begins anew with the first pause."""


class State(IntEnum):
    """Values of the metric."""

    DOWN = 0
    STARTING = 1
    READY = 2
    WAITING = 3
    ENDING = 4


@dataclass
class Counts:
    """What happened to a model since the gateway's start; it outlives a change of its recipe."""

    starts: int = 0
    crashes: int = 0
    failed_starts: int = 0


class Resident:
    """`start` brings a process, not yet ready, when there is room for it; `watch` returns at its end.

    `seated`: it takes one of the seats for loaded models. `outgrew`: bytes that it took before it was ready, too many, and
    of which version of its file (`version`), so that nobody makes room for the same again. `freed` is called whenever
    somebody may have become idle. What outlives a request runs in a context of its own, or its log lines would carry the id
    of that request.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        counts: Counts,
        start: Callable[[Resident], Awaitable[Process]],
        watch: Callable[[Process], Coroutine[Any, Any, None]],
        freed: Callable[[Resident], None],
    ) -> None:
        self.name, self.recipe, self.counts = name, recipe, counts
        self.state = State.DOWN
        self.seated = False
        self.users = 0
        self.used = time.monotonic()
        self.process: Process | None = None
        self.trouble = ""
        self.outgrew, self.version = 0, (0, 0)
        self._start, self._watch, self._freed = start, watch, freed
        self._failures = 0
        self._not_before = 0.0
        self._refused: Refused | None = None
        self._life: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(AT_ONCE)

    async def enter(self) -> Process:
        """Return the process, started if need be; `leave` follows. Raises Refused."""
        self.users += 1
        self._stop_clock()
        try:
            await self._room.acquire()
            try:
                return await self._running()
            except BaseException:
                self._room.release()
                raise
        except BaseException:
            self._left()
            raise

    def leave(self) -> None:
        """A request has ended."""
        self._room.release()
        self._left()

    async def explain(self, process: Process, error: aiohttp.ClientError) -> aiohttp.ClientError:
        """Return what became of a request: `error`, or that the process has ended, why, and when it is back."""
        told = await process.explain(error)
        if isinstance(told, Ended):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NOTICE_SECONDS):
                    while self.process is process:
                        await self._changed.wait()
            told = Ended(process.why or str(told))
            told.seconds = max(0.0, self._not_before - time.monotonic())
        return told

    async def unload(self) -> None:
        """End the process; whoever comes meanwhile waits and starts another."""
        self._stop_clock()
        if life := self._life:
            if self.state is not State.ENDING:  # a second cancellation would cut short what the first one began
                self._become(State.ENDING)
                life.cancel()
            await asyncio.wait([life])

    async def _running(self) -> Process:
        while True:
            changed = self._changed
            if self.state is State.READY and self.process and not self.process.ended:
                return self.process
            left = self._not_before - time.monotonic()
            if self.state is State.WAITING or (self.state is State.DOWN and left > 0):
                raise self._pausing(max(left, 0.0))
            if self.state is State.DOWN:
                self._refused = None
                self._become(State.STARTING)
                self._life = asyncio.create_task(self._live(), context=Context())
                changed = self._changed
            await changed.wait()
            if self._refused:
                raise self._refused

    def _pausing(self, left: float) -> Refused:
        message = f'The model "{self.name}" failed and is started again in {max(1, round(left))} s: {self.trouble}.'
        # What could not be started will hardly be a second later; what crashed comes back.
        hopeless = self.state is not State.WAITING
        return Refused(message, "local_model_failed", seconds=max(left, 0.1), hopeless=hopeless)

    async def _live(self) -> None:
        """From the first start to the unloading, with a new start after every crash for as long as it is in use."""
        try:
            while True:
                self._become(State.STARTING)
                if not await self._serve():
                    return
                self._become(State.WAITING)
                await asyncio.sleep(self._not_before - time.monotonic())
                if not self._in_use():
                    return
        except Refused as refused:
            # No failure of its own: there is no program, no file, or no room.
            self.trouble = "" if refused.passing else refused.message
            self._refused = refused
        except Exception:
            log.exception("local model %s", self.name)
            self._refused = Refused(f'The model "{self.name}" failed; the log says why.', "local_model_failed")
        finally:
            self.process = None
            self.seated = False
            self._life = None
            self._become(State.DOWN)
            self._freed(self)

    async def _serve(self) -> bool:
        """Run one process to its end; whether another is to follow."""
        process = await self._start(self)
        began = time.monotonic()
        try:
            watching = asyncio.create_task(self._watch(process))
            try:
                await process.ready()
            except Ended as ended:
                self.outgrew = process.outgrew
                self._failed(str(ended), process, "did not start")
                self.counts.failed_starts += 1
                self._refused = self._not_started(str(ended))
                return False
            took, began = time.monotonic() - began, time.monotonic()
            log.info("local model %s is ready after %.1f s", self.name, took, extra={"pid": process.pid})
            self.counts.starts += 1
            self.process, self.trouble = process, ""
            self._become(State.READY)
            self._start_clock()
            await asyncio.shield(watching)
            if time.monotonic() - began > STEADY_SECONDS:
                self._failures = 0
            self.counts.crashes += 1
            self._failed(process.why, process, "crashed")
            return True
        finally:
            self.process = None
            await process.end()
            await asyncio.wait([watching])

    def _failed(self, why: str, process: Process, what: str) -> None:
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._failures, LONGEST_PAUSE_SECONDS)
        self._failures += 1
        self._not_before = time.monotonic() + pause
        self.trouble = why
        extra = {"model": self.name, "pid": process.pid, "pause": pause, "last_lines": process.last}
        log.error("local model %s %s: %s", self.name, what, why, extra=extra)

    def _not_started(self, why: str) -> Refused:
        left = self._not_before - time.monotonic()
        return Refused(f'The model "{self.name}" did not start: {why}.', "local_model_failed", seconds=left)

    def _in_use(self) -> bool:
        idle = self.recipe.idle_seconds
        return not idle or self.users > 0 or time.monotonic() - self.used < idle

    def _become(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    def _left(self) -> None:
        self.users -= 1
        self.used = time.monotonic()
        if not self.users:
            self._start_clock()
            self._freed(self)

    def _start_clock(self) -> None:
        if self.recipe.idle_seconds and not self.users and self.state is State.READY and not self._idle:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self.recipe.idle_seconds, self._expire, context=Context())

    def _stop_clock(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None

    def _expire(self) -> None:
        self._idle = None
        if not self.users and self.state is State.READY:
            log.info("local model %s unloaded: no request for %g s", self.name, self.recipe.idle_seconds)
            self._unloading = asyncio.create_task(self.unload())
