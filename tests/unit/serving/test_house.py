"""serving.errors, serving.logs, serving.health, and the small pure parts of probe, listener, watcher and reload."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serving import health as health_module
from serving import logs, probe, reload, watcher
from serving.errors import ApiError, handlers
from serving.health import Gate, Health, NotConfigured
from serving.logs import RequestLog
from tests.support.asgi import Answer, ask


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers, root.level
    out = io.StringIO()
    logs.setup("info", out)
    yield out
    root.handlers, root.level = before


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def build() -> RequestLog:
    async def good(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("fine")

    async def refused(_request: Request) -> PlainTextResponse:
        raise ApiError(409, "no", code="c", param="p", headers={"x-why": "so"})

    async def broken(_request: Request) -> PlainTextResponse:
        msg = "the secret of the crash"
        raise RuntimeError(msg)

    routes = [Route("/good", good), Route("/refused", refused), Route("/broken", broken)]
    return RequestLog(Starlette(routes=routes, exception_handlers=handlers()))


def one(method: str, path: str, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(ask(build(), method, path, headers=given))


def test_errors_have_openais_shape(stream: io.StringIO) -> None:
    refused = one("GET", "/refused")
    assert (refused.status, refused.headers["x-why"]) == (409, "so")
    error = {"message": "no", "type": "invalid_request_error", "param": "p", "code": "c"}
    assert refused.json == {"error": error}
    assert (one("GET", "/none").status, one("GET", "/none").json["error"]["code"]) == (404, "not_found")
    assert (one("POST", "/good").status, one("POST", "/good").json["error"]["code"]) == (405, "method_not_allowed")


def test_a_crash_is_logged_and_not_shown(stream: io.StringIO) -> None:
    answer = one("GET", "/broken", x_request_id="r1")
    assert (answer.status, answer.headers["x-request-id"]) == (500, "r1")
    assert b"secret" not in answer.body
    failed, request = lines(stream)
    assert "the secret of the crash" in failed["traceback"]
    assert (failed["request_id"], request["status"]) == ("r1", 500)


def test_a_request_is_one_line_without_headers(stream: io.StringIO) -> None:
    answer = one("GET", "/good", x_request_id="mine", authorization="Bearer hush")
    assert answer.headers["x-request-id"] == "mine"
    (line,) = lines(stream)
    assert {line[name] for name in ("method", "path", "status", "request_id")} == {"GET", "/good", 200, "mine"}
    assert line["ms"] >= 0
    assert "hush" not in stream.getvalue()


def test_a_strange_request_id_is_replaced(stream: io.StringIO) -> None:
    assert one("GET", "/good", x_request_id='evil"\r\n').headers["x-request-id"].isalnum()


async def well() -> None:
    return


async def ill() -> None:
    msg = "refused"
    raise ConnectionError(msg)


async def absent() -> None:
    msg = "X is not set"
    raise NotConfigured(msg)


async def stuck() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("check", "required", "code", "status"),
    [
        (well, True, 200, "ok"),
        (ill, True, 503, "unavailable"),
        (ill, False, 200, "degraded"),
        (absent, True, 200, "ok"),
    ],
)
def test_readiness(check, required: bool, code: int, status: str) -> None:
    health = Health("s")
    health.add("dep", check, required=required)
    assert asyncio.run(health.report())[0] == 503, "starting"
    health.started()
    got, document = asyncio.run(health.report())
    assert (got, document["status"]) == (code, status)
    assert document["dependencies"]["dep"]["required"] is required
    health.draining()
    assert asyncio.run(health.report())[0] == 503


def test_a_hanging_check_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "CHECK_SECONDS", 0.01)
    health = Health()
    health.add("dep", stuck, required=True)
    health.started()
    code, document = asyncio.run(health.report())
    assert code == 503
    assert "no answer" in document["dependencies"]["dep"]["reason"]


def test_a_draining_service_turns_work_away_but_answers_health(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(health_module.time, "monotonic", lambda: now[0])
    health = Health()
    health.started()
    gate = Gate(Starlette(routes=health.routes(), exception_handlers=handlers()), health)
    statuses = []
    for step in (lambda: None, health.draining, lambda: now.__setitem__(0, 10.2)):
        step()
        statuses += [asyncio.run(ask(gate, "GET", path)).status for path in ("/v1/x", "/health", "/health/live")]
    assert statuses == [404, 200, 200, 404, 503, 200, 503, 503, 200]


@pytest.mark.parametrize("url", ["", "https://h:1/", "http://", "http://h:x/", "h:1/live"])
def test_the_probe_refuses_what_it_cannot_ask(url: str) -> None:
    assert "not of the form" in (probe.check(url) or "")


def test_changes_are_merged() -> None:
    assert watcher.parse(b'["b","a"]\n["b","c"]\n') == ["a", "b", "c"]


def test_only_our_modules_are_forgotten(tmp_path: Path) -> None:
    for name, place in (("inside_module", tmp_path / "a" / "m.py"), ("beside_module", tmp_path / "ab" / "m.py")):
        module = types.ModuleType(name)
        module.__file__ = str(place)
        sys.modules[name] = module
    try:
        reload.forget([str(tmp_path.resolve() / "a")])
        assert "inside_module" not in sys.modules
        assert "beside_module" in sys.modules
    finally:
        sys.modules.pop("beside_module", None)
        sys.modules.pop("inside_module", None)


def test_who_watches_gets_results_of_the_last_seconds_and_asks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], []
    monkeypatch.setattr(health_module.time, "monotonic", lambda: now[0])

    async def counted() -> None:
        asked.append(now[0])
        if len(asked) > 1:
            await ill()

    health = Health()
    health.add("counted", counted, required=True)
    health.add("absent", absent, required=True)

    async def scenario() -> None:
        assert health.watched() == {}
        await asyncio.gather(health.watch(), health.watch())
        now[0] += health_module.FRESH_SECONDS - 0.1
        await health.watch()
        assert (health.watched(), asked) == ({"counted": 1.0}, [100.0])
        now[0] += 0.2
        await health.watch()
        assert (health.watched(), len(asked)) == ({"counted": 0.0}, 2)
        await health.report()
        assert len(asked) == 3, "readiness always asks"

    asyncio.run(scenario())


def test_an_examination_outlives_the_one_who_began_it() -> None:
    async def scenario() -> None:
        go = asyncio.Event()

        async def slow() -> None:
            await go.wait()

        health = Health()
        health.add("slow", slow, required=False)
        first, second = (asyncio.create_task(health.watch()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        go.set()
        await second
        assert first.cancelled()
        assert health.watched() == {"slow": 1.0}

    asyncio.run(scenario())


def test_a_balancer_is_told_the_phase_by_the_status() -> None:
    health = Health()
    app = Starlette(routes=health.routes())

    def told() -> tuple[int, str]:
        answer = asyncio.run(ask(app, "GET", "/health/accepting"))
        return answer.status, answer.json["status"]

    assert told() == (503, "starting")
    health.started()
    assert told() == (200, "accepting")
    health.draining()
    assert told() == (404, "draining")
