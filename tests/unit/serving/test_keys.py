"""serving.auth, serving.keys_file and serving.rates."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from serving import auth, rates
from serving.asgi import notes
from serving.auth import Guard, Key, Keyring, is_loopback
from serving.keys_file import EVERY, parse
from serving.rates import Rates
from serving.settings import SettingsError
from tests.support.asgi import Answer, ask


def name(keys: Keyring, authorization: bytes | None) -> str | None:
    key = keys.find(authorization)
    return key and key.name


def faults(file: Path, text: str, **more) -> list[str]:
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Keyring.load(file, **more)
    return [fault.removeprefix(f"{file}:") for fault in caught.value.faults]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may\n\nalice:{digest('a')}  # her laptop\nbob:{digest('b').upper()}\n")
    return path


def test_keys_are_found_by_name(file: Path) -> None:
    keys = Keyring.load(file)
    assert name(keys, b"Bearer a") == "alice"
    assert name(keys, b"bearer b") == "bob"
    for wrong in (None, b"", b"Bearer", b"Bearer c", b"Basic a", b"a"):
        assert keys.find(wrong) is None


def test_a_changed_file_counts_after_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    keys = Keyring.load(file)
    file.write_text(f"carol:{digest('c')}\n")
    os.utime(file, (1, 1))
    assert name(keys, b"Bearer a") == "alice"
    now[0] += 1.1
    assert keys.find(b"Bearer a") is None
    assert name(keys, b"Bearer c") == "carol"
    file.write_text("")
    now[0] += 1.1
    assert keys.find(b"Bearer c") is None, "an emptied file locks out, it does not open"


def test_a_broken_file_keeps_the_keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    keys = Keyring.load(file)
    file.write_text("nonsense")
    now[0] += 1.1
    assert name(keys, b"Bearer a") == "alice"


def test_every_faulty_line_is_named(file: Path) -> None:
    found = faults(file, f"alice:{digest('a')}\nalice:{digest('b')}\nbob\ncarol:12\ndave:{digest('a')}\n")
    assert [fault.split(":")[0] for fault in found] == ["2", "3", "4", "5"]
    assert 'the one of "alice"' in found[-1]


def test_options_of_a_key(file: Path) -> None:
    file.write_text(f"a:{digest('a')} rpm=60  models=max/*,openai/gpt-4o # both\nb:{digest('b')}\n")
    keys = Keyring.load(file)
    limited, free = keys.find(b"Bearer a"), keys.find(b"Bearer b")
    assert limited and free
    assert (limited.rpm, limited.models, limited.options) == (60, ("max/*", "openai/gpt-4o"), {})
    asked = ("max/opus", "max/", "openai/gpt-4o", "openai/gpt-4o-mini", "ma", "")
    assert [limited.allows(each) for each in asked] == [True, True, True, False, False, False]
    assert (free.rpm, free.models, free.allows("x")) == (None, None, True)
    assert Key("all", models=("*",)).allows("x")


def test_a_service_names_its_own_options(file: Path) -> None:
    file.write_text(f"a:{digest('a')} tools=Read,Bash mcp=docs rpm=5\n")
    key = Keyring.load(file, options=("rpm", "tools", "mcp")).find(b"Bearer a")
    assert key
    assert (key.rpm, key.options) == (5, {"tools": ("Read", "Bash"), "mcp": ("docs",)})


def test_what_one_request_may_have_is_one_number(file: Path) -> None:
    options = ("calls", "tokens")
    file.write_text(f"a:{digest('a')} calls=5 tokens=1000000\n")
    key = Keyring.load(file, options=options).find(b"Bearer a")
    assert key
    assert key.options == {"calls": ("5",), "tokens": ("1000000",)}
    for wrong in ("calls=0", "calls=x", "tokens=1,2", "tokens=", "calls=\u00b2"):
        file.write_text(f"a:{digest('a')} {wrong}\n")
        with pytest.raises(SettingsError, match="the least is 1"):
            Keyring.load(file, options=options)


def test_every_faulty_option_is_named(file: Path) -> None:
    wrong = (
        "rpm=0",
        "rpm=x",
        "rpm=-1",
        "rpm=\u00b2",
        "models=",
        "models=a,,b",
        "models=a*b",
        "modles=a",
        "rpm",
        "zz=1",
    )
    text = "".join(f"k{number}:{digest(str(number))} {each}\n" for number, each in enumerate(wrong))
    found = faults(file, text + f"t:{digest('t')} rpm=1 rpm=2 what\n")
    assert [fault.split(":")[0] for fault in found] == [str(number) for number in range(1, 11)] + ["11", "11"]
    assert 'perhaps you meant "models"' in found[7]
    assert "this service knows rpm, models" in found[9]
    assert "stands twice" in found[10]


def test_a_service_checks_the_values_of_its_options(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])

    def check(key: Key) -> list[str]:
        return [f"no tool {each}" for each in key.options.get("tools", ()) if each != "Read"]

    text = f"a:{digest('a')} tools=Raed,Reed\n"
    assert faults(file, text, options=("tools",), check=check) == ["1: no tool Raed", "1: no tool Reed"]
    file.write_text(f"a:{digest('a')} tools=Read\n")
    keys = Keyring.load(file, options=("tools",), check=check)
    file.write_text(text + "\n")
    now[0] += 1.1
    found = keys.find(b"Bearer a")
    assert found and found.options == {"tools": ("Read",)}, "a faulty file is not taken over later either"


def test_without_keys_only_loopback_is_served(file: Path) -> None:
    assert name(Keyring.for_host("", "127.0.0.1", setting="KEYS"), None) == "anonymous"
    file.write_text("# none\n")
    for path in ("", str(file)):
        with pytest.raises(SettingsError, match="KEYS"):
            Keyring.for_host(path, "0.0.0.0", setting="KEYS")
    assert Keyring.for_host(str(file), "127.0.0.1", setting="KEYS").find(b"Bearer x") is None


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("a.example", False)],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_guard_notes_who_asked(file: Path) -> None:
    seen = []

    async def app(scope, receive, send) -> None:
        grant = notes(scope).get("grant")
        assert notes(scope).get("key") == (grant and grant.name)
        seen.append(notes(scope).get("key"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = Guard(app, Keyring.load(file))

    async def scenario() -> list[int]:
        answers = [
            await ask(guard, "GET", "/v1/x", headers={"authorization": "Bearer a"}),
            await ask(guard, "GET", "/v1/x"),
            await ask(guard, "GET", "/health/live"),
        ]
        assert answers[1].json["error"]["code"] == "invalid_api_key"
        return [answer.status for answer in answers]

    assert asyncio.run(scenario()) == [200, 401, 200]
    assert seen == ["alice", None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(rates.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    return now


def test_a_bucket_holds_a_minute_and_refills_evenly(clock: list[float]) -> None:
    buckets = Rates()
    taken = [buckets.take("a", 3) for _ in range(4)]
    assert [each.remaining for each in taken] == [2, 1, 0, 0]
    assert [each.retry for each in taken] == [0, 0, 0, 20]
    assert [each.reset for each in taken] == [20, 40, 60, 60]
    assert not buckets.take("b", 3).retry, "another key has its own"
    clock[0] += 19
    assert buckets.take("a", 3).retry == pytest.approx(1)
    clock[0] += 1.01
    assert not buckets.take("a", 3).retry
    clock[0] += 3600
    assert buckets.take("a", 3).remaining == 2, "never more than a minute's"
    assert buckets.take("a", 1).remaining == 0, "a lower limit counts at once"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (8.64, "8.64s"), (59.99, "59.99s"), (60, "1m0s"), (119.7, "2m0s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert rates.duration(seconds) == text


def test_the_guard_enforces_the_rate_across_a_reload(file: Path, clock: list[float]) -> None:
    async def app(scope, receive, send) -> None:
        headers = [(b"x-ratelimit-remaining-requests", b"99"), (b"x-upstream", b"u")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    file.write_text(f"a:{digest('a')} rpm=2\n")
    guard = Guard(app, Keyring.load(file))

    def request(path: str = "/v1/x") -> Answer:
        return asyncio.run(ask(guard, "GET", path, headers={"authorization": "Bearer a"}))

    first = request()
    assert first.headers["x-upstream"] == "u"
    assert first.headers["x-ratelimit-remaining-requests"] == "1", "not the upstream's"
    assert request().status == 200
    file.write_text(f"# again\na:{digest('a')} rpm=2\n")
    clock[0] += 1.1
    refused = request()
    assert (refused.status, refused.headers["retry-after"]) == (429, "29")
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-reset-requests"] == "58.9s"
    error = refused.json["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 'The key "a" is limited to 2 requests per minute' in error["message"]
    assert request("/health/live").status == 200
    clock[0] += 29
    assert request().status == 200


def test_answers_are_kept_by_key_or_by_declared_tenant(file: Path) -> None:
    file.write_text(
        f"a:{digest('a')}\nb:{digest('b')}\nc:{digest('c')} tenant=a\nd:{digest('d')} tenant=a rpm=1\ne:{digest('e')} tenant=b\n"
    )
    options = (*EVERY, "tenant")
    scopes = [key.scope for key in parse(file.read_text(), "keys", options).values()]
    assert len(set(scopes)) == 4
    assert scopes[2] == scopes[3]
    assert {len(each) for each in scopes} == {32}
    assert Key("anonymous").scope not in scopes
    renamed = parse(f"z:{digest('a')}\n", "keys", options)
    assert [key.scope for key in renamed.values()] == scopes[:1]
    assert all("tenant" not in key.options for key in parse(file.read_text(), "keys", options).values())


@pytest.mark.parametrize("value", ["", "a,b", "a b", "a:b", "a/b", "x" * 65, "\u00e4"])
def test_a_tenant_is_one_name(file: Path, value: str) -> None:
    found = faults(file, f"a:{digest('a')} tenant={value}\n", options=(*EVERY, "tenant"))
    assert found
    assert all(fault.startswith("1: ") for fault in found)
