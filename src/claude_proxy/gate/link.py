"""The proxy's side of the gate: starts its process, tells it whom to let in, and starts it again should it end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from claude_proxy import failures
from claude_proxy.gate.ledger import Rights
from claude_proxy.settings import KEYS, Credential, Settings
from serving.errors import ApiError
from serving.listener import BindError, bind
from serving.settings import Secret

log = logging.getLogger("claude_proxy.gate")

START_SECONDS, END_SECONDS = 10.0, 2.0
AGAIN_SECONDS = (0.0, 0.1, 0.5, 2.0)
"""How long to wait before the gate is started, the first time and later ones."""
PEACE_SECONDS = 60.0
"""After how long a life of the gate its end counts as the first one again."""


@dataclass
class Run:
    """One run of a CLI: what it may have, and what it used. `refused` is why its last refused call was refused."""

    number: int
    token: str
    rights: Rights
    calls: int = 0
    tokens: int = 0
    refused: str = ""
    before: tuple[int, int] = (0, 0)
    """Calls and tokens that an earlier process of the gate counted."""
    told: set[str] = field(default_factory=set)
    """The reasons of refusals that are in the log: each once."""
    ended: bool = False

    def left(self) -> Rights:
        """Return what is still to be had."""
        return replace(self.rights, calls=self.rights.calls - self.calls, tokens=self.rights.tokens - self.tokens)


Count = Callable[[int, int, str], None]
"""Is told of more calls, more tokens, and the reason of a refusal (empty: none)."""


class Link:
    """Made in the factory, where it takes its port; started and closed by the event loop."""

    def __init__(self, settings: Settings, count: Count = lambda _calls, _tokens, _refused: None) -> None:
        self._settings = settings
        self._count = count
        self._listener = _bind(settings.gate.host, settings.gate.port)
        self._url = _url(settings.gate.url, settings.gate.port, self._listener.getsockname()[1])
        self._runs: dict[int, Run] = {}
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def token() -> str:
        """Return a new token, which the gate does not know yet."""
        return f"run-{secrets.token_urlsafe(32)}"

    def settings(self, token: str) -> Settings:
        """Return the settings of a CLI that shows this token: where it asks, and what for a key."""
        return replace(self._settings, base_url=self._url, credential=Credential(KEYS[0], Secret(token)))

    async def start(self) -> None:
        """Start the process."""
        self._task = asyncio.create_task(self._keep())
        async with asyncio.timeout(START_SECONDS):
            await self._ready.wait()

    async def close(self) -> None:
        """End the process with all its connections."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._end()
        self._listener.close()

    async def working(self) -> None:
        """Health check: raises while there is no gate."""
        if not self._ready.is_set():
            msg = "the gate to the provider is not running; see the log"
            raise RuntimeError(msg)

    @asynccontextmanager
    async def granted(self, token: str, rights: Rights) -> AsyncIterator[Run]:
        """Let in who shows the token until the end of the block; all that it began at the gate is cut off then.

        An ApiError of the block becomes one that names the right that was used up, where that was the cause.
        """
        self._numbers += 1
        run = self._runs[self._numbers] = Run(self._numbers, token, rights)
        try:
            await self._grant(run)
            yield run
        except ApiError as error:
            # What the gate refused is here when it has answered this.
            await self._ask({"revoke": token, "run": run.number})
            if told := failures.at_the_gate(run.refused, rights.calls, rights.tokens):
                raise told from error
            raise
        finally:
            run.ended = True
            if run.number in self._runs:
                # Without waiting: the caller may be cancelled. The last figures come before the answer, which ends the run.
                self._say({"revoke": token, "run": run.number, "number": 0})

    async def _grant(self, run: Run) -> None:
        while True:
            await self._ready.wait()
            if await self._ask(self._grant_of(run)):
                return

    def _grant_of(self, run: Run) -> dict[str, Any]:
        # The gate counts from nothing again.
        run.before = run.calls, run.tokens
        return {"grant": run.token, "run": run.number, "rights": asdict(run.left()), "number": 0}

    async def _ask(self, said: dict[str, Any]) -> bool:
        """Say something and wait until it is done; whether it was."""
        self._numbers += 1
        number = self._numbers
        done = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._say({**said, "number": number})
            await done
        except ConnectionError:
            return False
        finally:
            self._waiting.pop(number, None)
        return True

    def _say(self, said: dict[str, Any]) -> None:
        if self._writer:
            self._writer.write(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))

    async def _keep(self) -> None:
        """Have a process, from now on."""
        failures, begun = 0, 0.0
        while True:
            if time.monotonic() - begun > PEACE_SECONDS:
                failures = 0
            await asyncio.sleep(AGAIN_SECONDS[min(failures, len(AGAIN_SECONDS) - 1)])
            failures, begun = failures + 1, time.monotonic()
            try:
                reader = await self._start()
                self._runs = {number: run for number, run in self._runs.items() if not run.ended}
                for run in self._runs.values():
                    self._say(self._grant_of(run))
                self._say({"open": True})
                self._ready.set()
                while line := await reader.readline():
                    self._hear(orjson.loads(line))
            except OSError as error:
                log.error("the gate to the provider cannot be started: %s", error)
            finally:
                self._ready.clear()
                await self._end()
            log.error("the gate to the provider ended; starting another")

    def _hear(self, said: dict[str, Any]) -> None:
        if "done" in said:
            done = self._waiting.pop(said["done"], None)
            if done and not done.done():
                done.set_result(None)
            self._runs.pop(said["ended"], None)
            return
        run = self._runs.get(said["run"])
        if run:
            calls, tokens = run.before[0] + said["calls"], run.before[1] + said["tokens"]
            self._count(max(0, calls - run.calls), max(0, tokens - run.tokens), said["refused"])
            if said["refused"] and said["refused"] not in run.told:
                run.told.add(said["refused"])
                log.warning("the gate refused a call", extra={"reason": said["refused"], "model": run.rights.model})
            run.calls, run.tokens, run.refused = calls, tokens, said["refused"] or run.refused

    async def _start(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.to_thread(self._spawn, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        return reader

    def _spawn(self, control: int) -> subprocess.Popen[bytes]:
        # Little of our environment, and no secret: the way to the packages.
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath}
        env |= {name: value for name, value in self._settings.passed_on.items() if name == "SSL_CERT_FILE"}
        listener = self._listener.fileno()
        argv = [sys.executable, "-m", "claude_proxy.gate", str(control), str(listener), self._settings.base_url]
        return subprocess.Popen(
            argv, env=env, cwd="/", stdin=subprocess.DEVNULL, pass_fds=[control, listener], start_new_session=True
        )

    async def _end(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
        for done in self._waiting.values():
            if not done.done():
                done.set_exception(ConnectionResetError())
        self._waiting.clear()
        if process := self._process:
            self._process = None
            await asyncio.shield(asyncio.to_thread(_reap, process))


def _reap(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
        return
    process.kill()
    process.wait()


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; where another process of ours still has the port, as in hot reload, at any free one."""
    try:
        return bind(host, port)
    except BindError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
            raise
        listener = bind(host, 0)
        log.warning("the gate's port is in use", extra={"port": port, "instead": listener.getsockname()[1]})
        return listener


def _url(given: str, wanted: int, port: int) -> str:
    """Return where CLIs find the gate: what was given, but for a port that was not to be had."""
    if not given:
        return f"http://127.0.0.1:{port}"
    parts = urlsplit(given)
    return given if port == wanted or not wanted else parts._replace(netloc=f"{parts.hostname}:{port}").geturl()


class NoGate:
    """Stands for a gate where the CLI shows a credential of its own and asks whom it is told to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @staticmethod
    def token() -> str:
        """Return no token."""
        return ""

    def settings(self, _token: str) -> Settings:
        """Return the settings as they are."""
        return self._settings

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    @asynccontextmanager
    async def granted(self, _token: str, _rights: Rights) -> AsyncIterator[None]:
        """Grant nothing, and refuse nothing."""
        yield
