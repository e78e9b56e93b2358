"""How long GET /health/live takes while 16 real CLIs run in the proxy: all of them streaming, each anew when it ends.

CLAUDE_CLI names the CLI's binary (default: `claude` on PATH); the provider is the tests' double.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.claude_proxy_process import Proxy, Stream, messages_api, question, running, wait_until

CLIS = 16
SECONDS = 30.0
BETWEEN_SECONDS = 0.02
MESSAGES = [
    {"role": "system", "content": "rule " * 2000},
    {"role": "user", "content": "word " * 20_000},
    {"role": "assistant", "content": "answer " * 2000},
    {"role": "user", "content": "[[gap=0.5]] and then?"},
]
"""A conversation of some size: what is copied and parsed for a request is part of the load."""


def keep_busy(port: int, end: float) -> int:
    """Ask one question after the other until `end`; return how many were answered."""
    answers = 0
    while time.time() < end:
        stream = Stream(port, question("", stream=True, messages=MESSAGES))
        if stream.response.status != 200:
            sys.exit(f"a request failed: {stream.response.status} {stream.response.read().decode()}")
        answers += list(stream.events())[-1] == "[DONE]"
        stream.close()
    return answers


def load(port: int) -> None:
    """What the second process does, so that its work does not delay the probes of the first."""
    with concurrent.futures.ThreadPoolExecutor(CLIS) as pool:
        answers = sum(pool.map(keep_busy, [port] * CLIS, [time.time() + SECONDS] * CLIS))
    print(f"{answers} answers meanwhile")


def probe(proxy: Proxy, seconds: float) -> list[float]:
    """Milliseconds of each probe, each over a connection of its own, as an orchestrator asks."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        connection.request("GET", "/health/live")
        if connection.getresponse().read() != b'{"status":"live"}':
            sys.exit("liveness failed")
        connection.close()
        times.append((time.perf_counter() - begin) * 1000)
        time.sleep(BETWEEN_SECONDS)
    return times


def say(name: str, times: list[float]) -> None:
    """One line of percentiles."""
    cuts = statistics.quantiles(times, n=100)
    figures = f"median {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, max {max(times):.1f} ms, n={len(times)}"
    print(f"{name}: {figures}")


def main() -> None:
    """Print the percentiles, idle and busy."""
    cli = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    if not cli:
        sys.exit("no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH")
    with tempfile.TemporaryDirectory() as folder, messages_api() as port:
        settings = {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "sk-any"}
        settings |= {"CLAUDE_PROXY_CLI": cli, "CLAUDE_PROXY_MAX_PROCESSES": str(CLIS), "CLAUDE_PROXY_QUEUE": str(CLIS)}
        with running(Path(folder), settings) as proxy:
            say("idle", probe(proxy, 5.0))
            argv = [sys.executable, "-m", "bench.proxy_health", str(proxy.port)]
            with subprocess.Popen(argv) as others:
                wait_until(lambda: proxy.metric("claude_proxy_cli_running ") == CLIS, 60, "the CLIs do not run")
                say(f"{CLIS} CLIs", probe(proxy, SECONDS * 0.8))
            if others.returncode:
                sys.exit("the load failed")


if __name__ == "__main__":
    load(int(sys.argv[1])) if len(sys.argv) > 1 else main()
