"""What the benchmarks share: run a command, take medians, print ratios. No figure is ever a test."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INVOKE = [str(ROOT / "scripts/invoke")]


def seconds(
    argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT, text: str | None = None
) -> float:
    """Wall time of one run in seconds; a failing command ends the benchmark with its output."""
    begin = time.perf_counter()
    done = subprocess.run(argv, cwd=cwd, env=env, input=text, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return took


def paired(
    runs: int, first: Sequence[str], second: Sequence[str], **options: object
) -> tuple[list[float], list[float]]:
    """Both commands by turns, so that a noisy neighbour hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        times[0].append(seconds(first))
        times[1].append(seconds(second, **options))  # type: ignore[arg-type]
    return times


def show(name: str, times: Sequence[float], peer: str = "", against: Sequence[float] = ()) -> None:
    """One line: median, range, and the ratio to a peer measured in the same run."""
    middle = statistics.median(times)
    line = f"{name}: median {middle:.3f} s (min {min(times):.3f}, max {max(times):.3f}, n={len(times)})"
    if against:
        other = statistics.median(against)
        line += f"; {peer}: median {other:.3f} s; ratio {middle / other:.2f}"
    print(line)


def engine_environment() -> dict[str, str]:
    """The variables of `invoke engine.env` on top of ours."""
    lines = subprocess.run([*INVOKE, "engine.env"], capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in lines)
    return {**os.environ, **{name: value.strip("'") for name, _, value in pairs}}
