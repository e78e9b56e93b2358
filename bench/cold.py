"""A cold build: all prod images, base included, in an engine with an empty store; a fresh SHIPYARD_HOME of its own.

The engine is unpacked before the clock starts. Its network is this machine's; the engine in use is stopped meanwhile,
because two engines would share one bridge.

    .venv/bin/python -m bench.cold
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from bench.measure import INVOKE, seconds, show


def main() -> None:
    from shipyard.engine import embedded, packages

    was_running = embedded.pid() is not None
    if was_running:
        seconds([*INVOKE, "engine.down"])
    home = Path(tempfile.mkdtemp(prefix="shipyard-cold-"))
    env = {**os.environ, "SHIPYARD_HOME": str(home)}
    try:
        if packages.folder().exists():
            (home / packages.folder().name).symlink_to(packages.folder())
        seconds([*INVOKE, "engine.up"], env=env)
        show("cold build of all prod images, base included", [seconds([*INVOKE, "build", "--target", "prod"], env=env)])
    finally:
        seconds([*INVOKE, "engine.down"], env=env)
        shutil.rmtree(home, ignore_errors=True)
        if was_running:
            seconds([*INVOKE, "engine.up"])


if __name__ == "__main__":
    main()
