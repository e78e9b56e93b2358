"""A real Redis on a socket of its own, that tests kill and start again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from redis import Redis, RedisError

from tests.support.service import wait_until


class Server:
    """A Redis of our own on a socket in a folder of our own. It keeps what it confirmed, unless told to forget."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is not on PATH: `nox -s services` puts the one of our image there"
        options = f"--port 0 --unixsocket {self._socket} --dir {self._folder} --appendonly yes --appendfsync always"
        self._process = subprocess.Popen([program, *options.split()], stdout=subprocess.DEVNULL)
        wait_until(self._answers, "redis-server")

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._socket.unlink(missing_ok=True)

    def pause(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        shutil.rmtree(self._folder / "appendonlydir")

    def client(self) -> Redis:
        return Redis.from_url(self.url, decode_responses=True)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:  # no socket yet, or loading
            return False
