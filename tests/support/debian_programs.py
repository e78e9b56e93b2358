"""Programs of Debian testing that only tests need, unpacked once per machine beside the engine's."""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from shipyard.commands import debian
from shipyard.engine import lock, packages
from shipyard.engine.types import home
from shipyard.run import run


def unpacked(name: str, wanted: Sequence[str], finish: Callable[[Path], None] = lambda _root: None) -> Path:
    """The folder with these packages; unpacked on first use, under a lock of its own, and then given to ``finish``."""
    stamp = hashlib.sha256(" ".join((packages.SUITE, platform.machine(), *wanted)).encode()).hexdigest()[:12]
    done = home() / f"{name}-{stamp}"
    with lock("looking for mmdebstrap"):
        mmdebstrap = packages.mmdebstrap()  # may have to be fetched, for the engine at the same time
    with lock(f"unpacking {name}", home() / f"{name}.lock"):
        if not done.exists():
            # Not "unpacking-": those are the engine's leftovers, which its start removes.
            scratch = Path(tempfile.mkdtemp(prefix=f"{name}-unpacking-", dir=home()))
            try:
                root = scratch / "root"
                argv = debian.unpack(mmdebstrap, packages.SUITE, wanted, root, keyring=packages.keyring())
                run(argv, env=packages.environment(), timeout=900)
                root.chmod(0o755)
                finish(root)
                root.rename(done)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return done
