"""serving.cors."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from serving import cors
from serving.settings import Env, SettingsError
from tests.support.asgi import ask

APP = PlainTextResponse("fine")


def origins(text: str) -> tuple[str, ...]:
    env = Env({"X_CORS_ORIGINS": text})
    found = cors.read(env, "X")
    env.finish()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("*", ("*",)),
        (
            "https://A.example, http://localhost:5173,tauri://x",
            ("https://a.example", "http://localhost:5173", "tauri://x"),
        ),
        ("https://a:443,http://b:80,https://c:80", ("https://a", "http://b", "https://c:80")),
        ("http://[::1]:3000,http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_read_as_browsers_write_them(text: str, expected: tuple[str, ...]) -> None:
    assert origins(text) == expected


def test_every_faulty_origin_is_named() -> None:
    wrong = ["a.example", "https://a/", "https://a/b", "null", "https://*.a", "*", "http://a:99999", "http://[1]"]
    with pytest.raises(SettingsError) as caught:
        origins(",".join(wrong))
    assert [fault.split('"')[1] for fault in caught.value.faults] == wrong
    assert all(fault.startswith("X_CORS_ORIGINS: ") for fault in caught.value.faults)


def test_it_is_not_there_when_off() -> None:
    assert cors.wrap(APP, ()) is APP


@pytest.mark.parametrize("allowed", [("*",), ("https://a",)])
def test_credentials_are_never_allowed(allowed: tuple[str, ...]) -> None:
    app = cors.wrap(APP, allowed)
    headers = {"origin": "https://a", "access-control-request-method": "POST"}
    for method in ("OPTIONS", "POST"):
        answer = asyncio.run(ask(app, method, "/", headers=headers))
        assert answer.headers["access-control-allow-origin"] == allowed[0]
        assert "access-control-allow-credentials" not in answer.headers
