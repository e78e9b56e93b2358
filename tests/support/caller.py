"""Clients that never stop: what a move or a fault does to them is what it does to anybody."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.stack import Checkout


@dataclass
class Record:
    """What the clients saw: answers by kind, and every failure with its kind and second."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def failed(self, kind: str, problem: object) -> None:
        """Note a failure."""
        self.failures.append(f"{time.monotonic() - self.begun:.2f} s {kind}: {problem}")


class Client:
    """One client with one connection, which it keeps as long as the server does."""

    def __init__(self, copy: Checkout, *, keep: bool) -> None:
        self._copy, self._keep = copy, keep
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and whole body of an answer. Raises OSError or HTTPException when there is none."""
        port = self._copy.ports["LLM_CALL_API_PORT"]
        connection = self._connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection = connection
        try:
            headers = {"authorization": f"Bearer {self._copy.key}", "content-type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        except BaseException:
            self.close()
            raise
        if not self._keep or response.will_close:
            self.close()
        return response.status, text

    def close(self) -> None:
        """Let the connection go."""
        if self._connection:
            self._connection.close()
            self._connection = None


def _question(number: int, **more: Any) -> dict[str, Any]:
    return {"model": "openai/gpt-test", "messages": [{"role": "user", "content": f"call {number}"}], **more}


def models(client: Client, _: int) -> tuple[int, bytes]:
    """A list that the API itself knows."""
    return client.ask("GET", "/v1/models")


def chat(client: Client, number: int) -> tuple[int, bytes]:
    """A question that is asked once: no cache, never sent again."""
    return client.ask("POST", "/v1/chat/completions", _question(number))


def cached(client: Client, _: int) -> tuple[int, bytes]:
    """The same deterministic question over and over."""
    return client.ask("POST", "/v1/chat/completions", _question(0, temperature=0))


def stream(client: Client, number: int) -> tuple[int, bytes]:
    """A stream of about a second; one without its end is a failure."""
    slow = {"gap": 0.1, "chunks": 10}
    status, text = client.ask("POST", "/v1/chat/completions", _question(number, stream=True, x_double=slow))
    return (status, text) if b"[DONE]" in text else (599, text)


@contextmanager
def calling(
    copy: Checkout, *kinds: Callable[[Client, int], tuple[int, bytes]], pause: float = 0.03
) -> Iterator[Record]:
    """Let one client of each kind call without end, each anew on a new connection and on a kept one, while the block runs."""
    record, over, numbers = Record(), threading.Event(), itertools.count()

    def run(kind: Callable[[Client, int], tuple[int, bytes]], keep: bool) -> None:
        client = Client(copy, keep=keep)
        while not over.wait(pause):
            try:
                status, text = kind(client, next(numbers))
            except (OSError, http.client.HTTPException) as problem:
                record.failed(kind.__name__, f"{type(problem).__name__} {problem}")
            else:
                record.answers[kind.__name__] += 1
                if status != 200:
                    record.failed(kind.__name__, f"{status} {text[:400]!r}")
        client.close()

    threads = [threading.Thread(target=run, args=(kind, keep)) for kind in kinds for keep in (False, True)]
    for each in threads:
        each.start()
    try:
        yield record
    finally:
        over.set()
        for each in threads:
            each.join()
