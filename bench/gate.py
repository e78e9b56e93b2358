"""Time to the first piece of text with the gate and without it, by turns in one run; `python -m bench.gate 8` for eight turns.

CLAUDE_CLI names the CLI's binary (default: `claude` on PATH); the provider is the tests' double.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.first_token import RUNS, first_text
from bench.measure import show
from tests.support.claude_proxy_process import messages_api, running, wait_until


def compare(cli: str, runs: int, ahead: int) -> None:
    """Print both medians and their ratio, with so many CLIs started ahead (0 or 1)."""
    with tempfile.TemporaryDirectory() as name, messages_api() as port:
        given = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}"}
        given["CLAUDE_PROXY_PRESTART"] = str(ahead)
        folders = [Path(name) / each for each in ("gate", "direct")]
        for folder in folders:
            folder.mkdir()
        with (
            running(folders[0], {**given, "CLAUDE_PROXY_CREDENTIAL": "egress"}) as gated,
            running(folders[1], {**given, "ANTHROPIC_API_KEY": "sk-any"}) as direct,
        ):
            times: tuple[list[float], list[float]] = ([], [])

            def waits() -> bool:
                return all(each.metric("claude_proxy_cli_ahead ") == ahead for each in (gated, direct))

            pair = [(times[0], gated), (times[1], direct)]
            for number in range(runs):
                # Whose turn is second has a CLI that had longer to start.
                for found, proxy in pair if number % 2 else reversed(pair):
                    wait_until(waits, "no CLI waits")
                    time.sleep(ahead)  # its start must disturb neither
                    found.append(first_text(proxy))
        how = "started ahead" if ahead else "started for the request"
        show(f"first text through the gate, {how}", times[0], "without it", times[1])


def main() -> None:
    """Compare with CLIs started ahead, and without."""
    cli = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    if not cli:
        sys.exit("no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH")
    for ahead in (1, 0):
        compare(cli, int(sys.argv[1]) if len(sys.argv) > 1 else RUNS, ahead)


if __name__ == "__main__":
    main()
