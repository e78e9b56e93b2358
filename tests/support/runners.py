"""A proxy whose CLIs run in runners: processes of other users, on this host, as `claude_proxy.runner` starts them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.claude_proxy_process import ROOT, Proxy
from tests.support.claude_proxy_process import running as proxy_running
from tests.support.service import wait_until

FIRST = 61_101
"""The uid of the first runner; none of this range is anybody's on a usual machine."""
MOST = 9

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")


class Runner:
    """One runner's process."""

    def __init__(self, folder: Path, number: int, seconds: float = 10) -> None:
        self.uid = FIRST + number
        self.work = folder / f"work-{number}"
        self.work.mkdir(exist_ok=True)
        os.chown(self.work, self.uid, self.uid)
        self.log = folder / f"runner-{number}.log"
        argv = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *_READING]
        argv += [sys.executable, "-S", "-m", "claude_proxy.runner"]
        argv += ["--connect", str((folder / "runners").resolve()), "--work", str(self.work)]
        env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


#: The interpreter of the tests may lie in a folder of root's: a runner may read there, and write nowhere.
_READING = (
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
    "--bounding-set=-all,+dac_read_search",
)


@contextmanager
def runner(folder: Path, number: int) -> Iterator[Runner]:
    """A runner that is ended afterwards."""
    made = Runner(folder, number)
    try:
        yield made
    finally:
        try:
            if made.process.poll() is None:
                made.stop()
        finally:
            made.kill()


@contextmanager
def pooled(folder: Path, settings: dict[str, str], count: int) -> Iterator[tuple[Proxy, list[Runner]]]:
    """A proxy with so many runners, all connected."""
    # The name of a socket has 107 bytes at most.
    place = Path(tempfile.mkdtemp(prefix="runners-"))
    place.chmod(0o755)
    (folder / "runners").symlink_to(place)
    own = {"CLAUDE_PROXY_RUNNERS": str(place), "CLAUDE_PROXY_RUNNER_UIDS": f"{FIRST}-{FIRST + MOST - 1}"}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        proxy = stack.enter_context(proxy_running(folder, {**own, **settings}))
        runners = [stack.enter_context(runner(folder, number)) for number in range(count)]
        wait_until(lambda: connected(proxy) == count, f"{count} runners are not connected", 20)
        yield proxy, runners


def connected(proxy: Proxy) -> int:
    """How many runners the proxy has."""
    return int(proxy.metric("claude_proxy_runners "))
