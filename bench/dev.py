"""Hot reload inside the dev stack: from saving a source file on the host to the new code answering through the published
port, with an open SSE stream through the real CLI; against restarting the container.

    .venv/bin/python -m bench.dev [SAVES]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.phases import paths
from tests.support.stack import Checkout, checkout

SOURCE = "src/llm_call/api/models.py"


def main() -> None:
    saves = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as folder, checkout(Path(folder)) as copy:
        copy.invoke("dev", "--detach")
        text = (copy.root / SOURCE).read_text()
        words = " ".join(["word"] * 40)
        question = paths.chat("max/opus", f"[[gap=0.3]] {words}", stream=True)
        with copy.request("POST", "/v1/chat/completions", question) as response:
            times = [saved(copy, text, f"v{number}") for number in range(saves)]
            whole = paths.events(response)[-1][1] == "[DONE]"
        (copy.root / SOURCE).write_text(text.replace('"list"', '"restarted"', 1))
        begin = time.perf_counter()
        copy.docker("restart", copy.container("llm-call-api"))
        answers(copy, "restarted")
        restart = time.perf_counter() - begin
    middle = statistics.median(times)
    stream = "ran to its end" if whole else "was cut"
    print(
        f"save to new answer in the dev stack: median {middle * 1000:.0f} ms, worst {max(times) * 1000:.0f} ms, n={saves}"
    )
    print(f"the open stream {stream}; restarting the container: {restart:.2f} s; ratio {middle / restart:.3f}")


def saved(copy: Checkout, text: str, version: str) -> float:
    """Seconds from the save to the first answer by the new code."""
    (copy.root / SOURCE).write_text(text.replace('"list"', f'"{version}"', 1))
    begin = time.perf_counter()
    answers(copy, version)
    return time.perf_counter() - begin


def answers(copy: Checkout, version: str) -> None:
    """Ask until the list of models calls itself by this version."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if copy.ask("GET", "/v1/models")[1]["object"] == version:
                return
        except (OSError, ValueError, KeyError):
            continue
    sys.exit(f"the dev stack never served {version}")


if __name__ == "__main__":
    main()
