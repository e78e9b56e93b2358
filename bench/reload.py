"""From saving a source file to the new code answering, with an open SSE stream: ours against `uvicorn --reload`.

    .venv/bin/python bench/reload.py [--saves 15]

Both serve on 127.0.0.1 from temporary copies, in one run. uvicorn's reload waits for open streams, so it gets none.
Prints both medians in milliseconds and their ratio.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.service import READY, Service, chat, double, running  # noqa: E402

GOAL_MS = 350
LIMIT_MS = 600
MODELS = '[upstream.d]\nkind = "openai"\nbase_url = "http://127.0.0.1:{}/v1"\n[model."d/*"]\nupstream = "d"\n'
PEER = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import aiohttp, orjson, redis.asyncio

async def models(request):
    return JSONResponse({"object": "list"})

app = Starlette(routes=[Route("/v1/models", models)])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--saves", type=int, default=15)
    saves = parser.parse_args().saves
    with tempfile.TemporaryDirectory() as folder:
        ours = measure_ours(Path(folder), saves)
    with tempfile.TemporaryDirectory() as folder:
        peer = measure_peer(Path(folder), saves)
    median, other = statistics.median(ours), statistics.median(peer)
    print(f"ours              median {median:6.0f} ms   worst {max(ours):6.0f} ms   {saves} saves, an SSE stream open")
    print(f"uvicorn --reload  median {other:6.0f} ms   worst {max(peer):6.0f} ms   {saves} saves, no stream")
    print(f"ratio {median / other:.2f}   goal {GOAL_MS} ms   limit {LIMIT_MS} ms")
    return 0 if median <= LIMIT_MS else 1


def measure_ours(folder: Path, saves: int) -> list[float]:
    """Return milliseconds per save; fails if the stream was cut."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config").mkdir()
    source = folder / "src" / "llm_call" / "api" / "models.py"
    with double() as upstream:
        (folder / "config" / "models.toml").write_text(MODELS.format(upstream.port))
        with running(
            ["-m", "llm_call.api", "--port", "0", "--reload"], READY, {"DRAIN_SECONDS": "60"}, folder
        ) as service:
            stream = Stream(service)
            times = measure(service, source, saves)
            chunks = stream.finish()
            print(f"the stream got {chunks} chunks and its end while {saves} versions came and went")
            return times


def measure_peer(folder: Path, saves: int) -> list[float]:
    (folder / "src").mkdir()
    source = folder / "src" / "peer.py"
    source.write_text(PEER)
    command = ["-m", "uvicorn", "peer:app", "--port", "0", "--reload", "--reload-dir", str(folder / "src")]
    with running(command, r"running on http://127\.0\.0\.1:(\d+)[\s\S]*startup complete", None, folder) as service:
        return measure(service, source, saves)


def measure(service: Service, source: Path, saves: int) -> list[float]:
    original = source.read_text()
    assert '"list"' in original
    times = []
    for number in range(saves):
        time.sleep(1.0)  # a person's pace; no save shall profit from the one before
        expected = f"version{number:03}"
        began = time.perf_counter()
        source.write_text(original.replace('"list"', f'"{expected}"'))
        wait_for(lambda expected=expected: version(service) == expected)
        times.append((time.perf_counter() - began) * 1000)
    return times


def version(service: Service) -> str | None:
    try:
        return str(service.get("/v1/models")[1]["object"])
    except (OSError, http.client.HTTPException):
        return None


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        if time.monotonic() > end:
            sys.exit("the new version never came")
        time.sleep(0.005)


class Stream:
    """Reads one long answer on the side."""

    def __init__(self, service: Service) -> None:
        self._stop = threading.Event()
        body = chat(stream=True, x_double={"chunks": 600, "gap": 0.05})
        self._response = service.open("POST", "/v1/chat/completions", json.dumps(body).encode())
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._response:
            if line.startswith(b"data: "):
                self._chunks.append(line)

    def finish(self) -> int:
        """Wait for the end of the stream; return how many chunks it had."""
        self._thread.join(60)
        if not self._chunks or self._chunks[-1] != b"data: [DONE]\n":
            sys.exit("the stream was cut")
        return len(self._chunks)


if __name__ == "__main__":
    sys.exit(main())
