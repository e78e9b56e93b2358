"""The CLI itself: where it is, which version it is, and whether it can be started."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil

from claude_proxy.command import QUIET, SEARCH_PATH
from claude_proxy.places import Place
from claude_proxy.process import Command, Processes
from claude_proxy.sandbox import reach
from claude_proxy.settings import Settings

log = logging.getLogger("claude_proxy.cli")

LONGEST_VERSION = 64
VERSION_SECONDS = 10.0
"""The longest that `--version` may take; it takes 0.02 s on an idle machine."""


class Cli:
    """The binary. Its version is read once, at the start, and not by every health probe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.path = shutil.which(settings.cli) or ""
        self.version = ""
        self._fault = "" if self.path else f'no executable "{settings.cli}"; set CLAUDE_PROXY_CLI to the path of claude'

    async def inspect(self, processes: Processes, place: Place) -> None:
        """Read the version; a failure is kept for the readiness report. The place is left afterwards."""
        if not self.path:
            log.error("the Claude CLI is missing: %s", self._fault)
            return
        try:
            async with asyncio.timeout(VERSION_SECONDS):
                self.version = await self._ask_version(processes, place)
        except (OSError, TimeoutError) as error:
            self._fault = f"{self.path} --version: {str(error) or 'no answer'}"
        if not self.version:
            self._fault = self._fault or f"{self.path} --version told no version"
            log.error("the Claude CLI does not work: %s", self._fault)
            return
        log.info("the Claude CLI works", extra={"path": self.path, "version": self.version})

    async def working(self) -> None:
        """Health check: raises when the CLI is missing or cannot be started."""
        if self._fault:
            raise RuntimeError(self._fault)
        if not os.access(self.path, os.X_OK):
            msg = f"{self.path} is gone or not executable any more"
            raise RuntimeError(msg)

    async def _ask_version(self, processes: Processes, place: Place) -> str:
        folder = place.folder
        lines: list[bytes] = []

        async def keep(line: bytes) -> bool:
            lines.append(line)
            return True

        try:
            env = {"PATH": SEARCH_PATH, "HOME": str(folder.home), "CLAUDE_CONFIG_DIR": str(folder.config), **QUIET}
            within = reach(self.path, folder.root, self._settings.readable, (), ())
            running = await place.start(Command([self.path, "--version"], env, folder.work, reach=within))
            await processes.converse(running, b"", keep)
        finally:
            await place.leave()
        words = lines[0].decode("utf-8", "replace").split() if lines else []
        return words[0][:LONGEST_VERSION] if words else ""
