"""What each point of the road costs: start, a changed line served, a request's time, memory. The peer of each is phase 1.

python -m bench.phases [--rounds 200]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.caller import Client
from tests.support.service import wait_until
from tests.support.stack import Checkout, checkout

PHASES = {"host": ("host", "--api"), "hybrid": ("hybrid",), "prod": ("prod",), "dev": ("dev", "--detach")}
SOURCE, OLD = "src/llm_call/api/models.py", '"object": "list"'
DOUBLES = ("messages-api", "openai-upstream")


def main() -> None:
    """Measure every phase in a copy of the tree and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="requests per phase (default: %(default)s)")
    rounds = parser.parse_args().rounds
    rows: dict[str, tuple[float, float, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder, checkout(Path(folder)) as copy:
        for words in PHASES.values():  # builds what is missing before any clock runs
            copy.invoke(*words)
        for name, words in PHASES.items():
            copy.invoke("down")
            begin = time.monotonic()
            copy.invoke(*words)
            start = time.monotonic() - begin
            rows[name] = (start, changed(copy, name, words), latency(copy, rounds), memory(copy))
    first = rows["host"]
    print(f"{'':8}{'start':>16}{'changed line':>18}{'request':>20}{'memory':>18}")
    for name, row in rows.items():
        ratios = [value / peer for value, peer in zip(row, first, strict=True)]
        cells = [f"{row[0]:.1f} s", f"{row[1]:.2f} s", f"{row[2]:.2f} ms", f"{row[3]:.0f} MB"]
        print(f"{name:8}" + "".join(f"{cell:>10} ({ratio:4.2f} x)" for cell, ratio in zip(cells, ratios, strict=True)))


def changed(copy: Checkout, name: str, words: tuple[str, ...]) -> float:
    """Seconds from a saved line until clients get what it says, by what each phase offers for that."""
    source = copy.root / SOURCE
    text = source.read_text()
    begin = time.monotonic()
    source.write_text(text.replace(OLD, OLD.replace("list", name)))
    if name == "host":
        number = next(each["image"].split()[1] for each in status(copy) if each["image"].startswith("process"))
        os.kill(int(number), signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{number}").exists(), "the old process", 20)
    if name != "dev":
        copy.invoke(*words)
    wait_until(lambda: copy.ask("GET", "/v1/models")[1].get("object") == name, "the new line", 60)
    seconds = time.monotonic() - begin
    source.write_text(text)
    return seconds


def latency(copy: Checkout, rounds: int) -> float:
    """Milliseconds of a chat request to a provider's double, median, one at a time on one connection."""
    client, taken = Client(copy, keep=True), []
    for number in range(rounds + 20):
        question = {"model": "openai/gpt-test", "messages": [{"role": "user", "content": f"{number}"}]}
        begin = time.perf_counter()
        assert client.ask("POST", "/v1/chat/completions", question)[0] == 200
        taken.append(1000 * (time.perf_counter() - begin))
    client.close()
    return statistics.median(taken[20:])


def memory(copy: Checkout) -> float:
    """Megabytes of all containers but the doubles, and of the process on the host."""
    total = 0.0
    for each in status(copy):
        if each["image"].startswith("process"):
            rows = Path(f"/proc/{each['image'].split()[1]}/status").read_text().splitlines()
            total += next(int(row.split()[1]) for row in rows if row.startswith("VmRSS")) / 1024
        elif each["service"] not in DOUBLES:
            words = ("stats", "--no-stream", "--format", "{{json .MemUsage}}", copy.container(each["service"]))
            used = json.loads(copy.docker(*words)).split("/")[0].strip()
            total += float(used[:-3]) * {"K": 1 / 1024, "M": 1, "G": 1024}[used[-3]]
    return total


def status(copy: Checkout) -> list[Any]:
    """The services that run."""
    found: list[Any] = copy.json("status")["services"]
    return found


if __name__ == "__main__":
    main()
