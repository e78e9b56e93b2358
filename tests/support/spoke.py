"""A spoke of the GRANGER hub, for tests: reads its service entry and asks the gateway. Standard library only.

    python spoke.py ENTRY [--key-file FILE]      asks for the models and for an answer; prints one JSON document
    python spoke.py --try HOST:PORT...           tries to connect; prints what came of each

ENTRY is a file as the hub hands it out:

    llm_call:
      url: "http://llm-call-api:8001"
"""

from __future__ import annotations

import json
import re
import socket
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def entry(path: Path) -> str:
    """The URL of the service `llm_call` in a file of service entries."""
    found = re.search(r'^llm_call:\s*(?:\{\s*|\n\s+)url:\s*"?([^"\s}]+)', path.read_text(), re.MULTILINE)
    if not found:
        raise SystemExit(f"{path}: no entry llm_call with a url")
    return found[1]


def ask(url: str, key: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and document of one answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60) as response:
        return response.status, json.load(response)


def tried(place: str) -> str:
    """`connected`, or the name of what stood in the way."""
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 1):
            return "connected"
    except OSError as problem:
        return type(problem).__name__


def main(words: list[str]) -> None:
    """See above."""
    if words[0] == "--try":
        with ThreadPoolExecutor(32) as pool:
            print(json.dumps(dict(zip(words[1:], pool.map(tried, words[1:]), strict=True))))
        return
    url, key = entry(Path(words[0])), Path(words[1]).read_text().strip()
    status, models = ask(url, key, "/v1/models")
    question = {"model": "openai/gpt-test", "messages": [{"role": "user", "content": "from a spoke"}]}
    answered, answer = ask(url, key, "/v1/chat/completions", question)
    text = answer["choices"][0]["message"]["content"]
    print(json.dumps({"status": [status, answered], "models": len(models["data"]), "text": text}))


if __name__ == "__main__":
    main(sys.argv[1:])
