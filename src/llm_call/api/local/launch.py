"""`python -m llm_call.api.local.launch PARENT PROGRAM [ARGUMENT]...`: becomes llama-server, after what must come before.

A program of its own, so that no code of ours runs in a fork of the gateway, which has threads and secrets.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from serving import parent

SOURCE = Path(__file__).resolve().parents[3]
INHERITED = re.compile(r"PATH|LD_LIBRARY_PATH|TMPDIR|(?:CUDA|NVIDIA|GGML)_.*")
"""Variables that llama-server sees: those that lead to its libraries and GPUs. None with a secret, none with its options."""
NICE = 5
"""How far a model steps back: the gateway answers health checks and passes on the streams of others meanwhile."""
OOM_SCORE = 500
"""oom_score_adj, in thousandths of the memory: when the container's ends, a model goes before the gateway."""


def command(program: str, *arguments: str) -> list[str]:
    """Return the command line that starts llama-server as a child that ends with this process."""
    return [sys.executable, "-S", "-m", "llm_call.api.local.launch", str(os.getpid()), program, *arguments]


def environment() -> dict[str, str]:
    """Return what that command sees of our environment."""
    kept = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    return {**kept, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1", "GGML_NO_BACKTRACE": "1"}


def main(argv: Sequence[str]) -> None:
    """Exec; what cannot be executed is told on stderr, and ends with 127."""
    parent.die_with(int(argv[0]))
    os.nice(NICE)
    with contextlib.suppress(OSError):  # less than what a container's own setting gives us is not allowed, nor meant
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(max(OOM_SCORE, int(score.read_text()))))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for each in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(each, None)
    try:
        os.execv(argv[1], list(argv[1:]))
    except OSError as error:
        sys.stderr.write(f"cannot execute {argv[1]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
