"""One llama-server: started with a key of its own at a socket of its own, watched over, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from llm_call.api.local import launch
from llm_call.api.local import recipe as recipes
from llm_call.api.local.journal import Journal
from llm_call.api.local.recipe import Recipe
from llm_call.api.local.refusals import Ended

log = logging.getLogger("llm_call.local")

ORIGIN = "http://localhost"
"""Of the URLs: the socket says where it is."""
POLL_SECONDS = 0.05, 0.5
"""Between two looks whether the model is loaded: from the first to the longest."""
ANSWER_SECONDS = 3.0
MISSES = 3
"""After so many health checks in a row without an answer it is ended: it hangs."""
GRACE_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""
KILL_SECONDS = 10.0
"""After this a process that was killed is left to the kernel: it hangs in a driver."""
NOTICE_SECONDS = 1.0
"""How long after a broken connection the end of the process may be noticed."""
RESIDENT = re.compile(r"^(VmRSS|RssFile|VmSwap):\s+(\d+) kB$", re.MULTILINE)


class Process:
    """A llama-server that was started; `why` says why it ended, once it has.

    `files`: weights that are mapped from their file count against its ceiling; `outgrew`: the bytes that were too many.
    """

    def __init__(
        self, name: str, recipe: Recipe, child: asyncio.subprocess.Process, socket: Path, key: str, *, files: bool
    ) -> None:
        self.pid = child.pid
        self.why = ""
        self.outgrew = 0
        self._files = files
        self.recipe = recipe
        self._name, self._child, self._socket = name, child, socket
        self._journal = Journal(name, child.pid)
        self._asker: bytes | None = None
        self._mixed = False
        assert child.stdout, "it is piped"
        self._following = asyncio.create_task(self._journal.follow(child.stdout))
        # A connection for each request: over a unix socket it costs nothing, and none is kept that has ended by itself.
        connector = aiohttp.UnixConnector(path=str(socket), limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity", "authorization": f"Bearer {key}"},
        )

    def strangers(self, scope: bytes) -> bool:
        """Note who asks (`serving.keys_file.Key.scope`), and tell whether others asked before."""
        self._mixed = self._mixed or self._asker not in (None, scope)
        self._asker = scope
        return self._mixed

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.returncode is not None

    @property
    def last(self) -> list[str]:
        """The last lines that it wrote."""
        return self._journal.last

    async def ready(self) -> None:
        """Wait until the model is loaded. Raises Ended if it ends before, or takes longer or more memory than it may."""
        pause, longest = POLL_SECONDS
        try:
            async with asyncio.timeout(self.recipe.start_seconds):
                while not self.ended and not await self._healthy():
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, longest)
        except TimeoutError:
            self.why = f"it was not ready within {self.recipe.start_seconds:g} s (start_seconds)"
        self._weigh()
        if self.ended or self.why:
            self.kill()
            await self._gone()
            raise Ended(self.why)
        self._journal.serving = True

    async def watch(self, seconds: float) -> None:
        """Return when it has ended; meanwhile end it if it hangs, or takes more memory than its ceiling.

        Its health is looked at every so many seconds, its memory five times as often.
        """
        # Why memory is looked at, rather than limited by the kernel: RLIMIT_AS and RLIMIT_DATA count addresses, of which
        # mapped weights and CUDA take far more than memory; RLIMIT_RSS does nothing; a control group of one's own is not
        # to be had inside a container. What grows faster than we look meets the container's limit, where the kernel
        # ends llama-server first (launch.OOM_SCORE).
        misses = rounds = 0
        while not self.why:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds / 5):
                    await self._child.wait()
                break
            rounds += 1
            self._weigh()
            if not self.why and self._journal.serving and rounds % 5 == 0:
                misses = 0 if await self._healthy(min(ANSWER_SECONDS, 2 * seconds)) else misses + 1
                if misses == MISSES and not self.ended:
                    self.why = f"it did not answer {MISSES} health checks in a row"
        self.kill()
        await self._gone()

    def _weigh(self) -> None:
        ceiling, taken = self.recipe.memory, self.memory(files=self._files)
        if ceiling and taken > ceiling and not self.why:
            self.outgrew = taken
            self.why = f"it took {taken / 1e6:.0f} MB of memory, its ceiling is {ceiling / 1e6:.0f} MB (memory)"

    def memory(self, *, files: bool = True) -> int:
        """Return the bytes that it has in memory or swap; with `files` the weights, which are mapped from their file."""
        # Where the weights are on a GPU, what is still mapped of the file can be taken back at any time.
        with contextlib.suppress(OSError):
            found = dict(RESIDENT.findall(Path(f"/proc/{self.pid}/status").read_text()))
            kilobytes = int(found.get("VmRSS", 0)) + int(found.get("VmSwap", 0))
            return 1024 * (kilobytes - (0 if files else int(found.get("RssFile", 0))))
        return 0

    async def post(self, wire: str, body: bytes, headers: Mapping[str, str], silence: float) -> aiohttp.ClientResponse:
        """Send a request; return the response as soon as its head is here. Raises what aiohttp raises."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS, sock_read=silence)
        headers = {"content-type": "application/json", **headers}
        url = f"{ORIGIN}/v1/{wire}"
        return await self._session.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False)

    async def explain(self, error: aiohttp.ClientError) -> aiohttp.ClientError:
        """Return `error`, or what says more: that the process has ended, and how."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_SECONDS):
                await self._child.wait()
        if not self.ended:
            return error
        return Ended(self.why or _manner(self._child.returncode))

    async def end(self) -> None:
        """End it, within GRACE_SECONDS or a little more, and what belongs to it."""
        if not self.ended:
            self.why = self.why or "it was ended"
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._child.wait()
            self.kill()
        await self._gone()
        await self._session.close()
        self._socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it; `watch` and `end` wait for that."""
        self._signal(signal.SIGKILL)

    async def _gone(self) -> None:
        """Wait for its end and read its last words."""
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self._child.wait()
        except TimeoutError:
            log.error("local model %s was killed and does not end", self._name, extra={"pid": self.pid})
        with contextlib.suppress(TimeoutError):  # whoever it left behind may hold the pipe open
            async with asyncio.timeout(NOTICE_SECONDS):
                await asyncio.shield(self._following)
        self._following.cancel()
        if not self.why:
            reason = "" if self._journal.serving else self._journal.reason
            self.why = _manner(self._child.returncode) + (f": {reason}" if reason else "")

    async def _healthy(self, seconds: float = ANSWER_SECONDS) -> bool:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.get(f"{ORIGIN}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not self.ended:
                os.killpg(self.pid, number)


async def start(
    name: str, recipe: Recipe, program: str, file: Path, socket: Path, needed: int, *, on_gpu: bool
) -> Process:
    """Start llama-server for the model in `file`, which takes `needed` bytes at least. Raises OSError."""
    key = secrets.token_urlsafe(32)
    argv = launch.command(program, *recipes.arguments(recipe, name, file, socket, processors()))
    env = {**launch.environment(), "HOME": str(socket.parent)}
    # Older versions do not know this option; a variable that they do not know does no harm.
    env["LLAMA_ARG_CACHE_RAM"] = str(recipes.cache_mib(recipe, needed))
    reader, writer = os.pipe()
    try:
        os.write(writer, key.encode() + b"\n")
        os.close(writer)
        # In a session of its own: Ctrl-C in a terminal reaches the gateway, which ends what is left after its drain.
        child = await asyncio.create_subprocess_exec(
            *argv,
            env=env,
            cwd="/",
            stdin=reader,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(reader)
    return Process(name, recipe, child, socket, key, files=not on_gpu)


def processors() -> int:
    """Return how many processors may be used: the machine's, or what a container leaves of them."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # without a limit the first word is "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


def _manner(code: int | None) -> str:
    if code is None or code >= 0:
        return f"it ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", by hand, or by the kernel where the container's memory is at its end" if code == -signal.SIGKILL else ""
    return f"it was killed by {name}{hint}"
