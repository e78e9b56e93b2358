"""What local models run on: asked of llama-server itself, which knows best what it can use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
from dataclasses import dataclass

from llm_call.api.local import launch
from llm_call.api.local.options import Options
from serving.settings import SettingsError

log = logging.getLogger("llm_call.local")

LISTED = re.compile(r"^  (\S+): (.+) \((\d+) MiB, \d+ MiB free\)$", re.MULTILINE)
LOOK_SECONDS, FIRST_SECONDS = 15.0, 45.0
"""The longest that a look may take: a driver that hangs is a lost GPU. The first time it may have to wake all of them."""
ROUNDS = 3
"""A GPU is looked at every third time that the health of models is."""
AGAIN_SECONDS = 3.0
"""A GPU that is missing once is looked for again after this: a driver may be busy."""
FULL = re.compile(r"out of memory", re.IGNORECASE)
"""What a look fails with while models fill the GPU: it is there."""


@dataclass(frozen=True)
class Look:
    """The GPUs that were found, or why there is none. `sure` is False where the look itself failed for another reason."""

    gpus: tuple[str, ...]
    why: str = ""
    sure: bool = True


def judge(code: int | None, output: str) -> Look:
    """Return what the output of `llama-server --list-devices` says; `code` None: it took too long."""
    if code is None:
        return Look((), "llama-server --list-devices did not end in time")
    if FULL.search(output):
        return Look((), "the GPU is full", sure=False)
    # What has no memory of its own is no GPU: libraries for linear algebra are listed as devices, too.
    gpus = tuple(f"{name}: {what}" for name, what, size in LISTED.findall(output) if int(size))
    if gpus:
        return Look(gpus)
    lines = [line.strip() for line in output.splitlines() if re.search(r"error|fail", line, re.IGNORECASE)]
    told = f" ({lines[-1][:200]})" if lines else ""
    return Look((), f"llama-server finds no GPU{told}" if code == 0 else f"llama-server ended with code {code}{told}")


def demand(options: Options) -> None:
    """Raise SettingsError unless there is a GPU: for REQUIRE_GPU, before anything is served. It may take seconds."""
    program = options.found()
    if not program:
        raise SettingsError([f"REQUIRE_GPU: {options.lack}"])
    code, output = None, b""
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            launch.command(program, "--list-devices"),
            check=False,
            env=launch.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=FIRST_SECONDS,
        )
        code, output = done.returncode, done.stdout
    look = judge(code, output.decode("utf-8", "replace"))
    if not look.gpus:
        fault = f"REQUIRE_GPU: {look.why}; give the container one (invoke prod --gpu), or leave REQUIRE_GPU out"
        raise SettingsError([fault])


class Device:
    """Says once what models run on. Where that is a GPU it is watched: `lost` says why it cannot be used any more."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.gpus: tuple[str, ...] = ()
        self.lost = ""
        self.known = asyncio.Event()

    async def run(self) -> None:
        """Look once; go on looking for as long as there is a GPU to lose."""
        try:
            await self._first()
        finally:
            self.known.set()
        while self.gpus:
            await asyncio.sleep(ROUNDS * self._options.watch_seconds)
            look = await self._look()
            if look.sure and not look.gpus and not self.lost:
                await asyncio.sleep(min(AGAIN_SECONDS, self._options.watch_seconds))
                look = await self._look()
            self._note(look)

    async def _first(self) -> None:
        look = await self._look(FIRST_SECONDS)
        self.gpus = look.gpus
        if look.gpus:
            log.info("local models run on %s", "; ".join(look.gpus))
        elif self._options.require_gpu:
            # It was there a moment ago: without it nothing would have started.
            self.gpus, self.lost = ("required",), look.why
        elif not self._options.found():
            log.warning("local models cannot run: %s", look.why)
        else:
            log.info("local models run on the CPU: %s", look.why)

    def _note(self, look: Look) -> None:
        if not look.sure:
            return
        if look.gpus and self.lost:
            log.info("the GPU is back: %s", "; ".join(look.gpus))
        elif not look.gpus and not self.lost:
            log.error("the GPU is lost: %s", look.why)
        self.lost = "" if look.gpus else look.why

    async def check(self) -> None:
        """Raise with the reason while the GPU is lost."""
        if self.lost:
            raise LookupError(self.lost)

    async def _look(self, seconds: float = LOOK_SECONDS) -> Look:
        program = self._options.found()
        if not program:
            return Look((), self._options.lack)
        try:
            child = await asyncio.create_subprocess_exec(
                *launch.command(program, "--list-devices"),
                env=launch.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Look((), f"{program}: {error.strerror}")
        try:
            async with asyncio.timeout(seconds):
                output, _ = await child.communicate()
        except TimeoutError:
            return judge(None, "")
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                # One that hangs in a driver dies when that lets it go; nobody waits for it here.
        return judge(child.returncode, output.decode("utf-8", "replace"))
