"""serving.auth."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from serving import auth
from serving.asgi import notes
from serving.auth import Guard, Keyring, is_loopback
from serving.settings import SettingsError
from tests.support.asgi import ask


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may\n\nalice:{digest('a')}  # her laptop\nbob:{digest('b').upper()}\n")
    return path


def test_keys_are_found_by_name(file: Path) -> None:
    keys = Keyring.load(file)
    assert keys.find(b"Bearer a") == "alice"
    assert keys.find(b"bearer b") == "bob"
    for wrong in (None, b"", b"Bearer", b"Bearer c", b"Basic a", b"a"):
        assert keys.find(wrong) is None


def test_a_changed_file_counts_after_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    keys = Keyring.load(file)
    file.write_text(f"carol:{digest('c')}\n")
    os.utime(file, (1, 1))
    assert keys.find(b"Bearer a") == "alice"
    now[0] += 1.1
    assert keys.find(b"Bearer a") is None
    assert keys.find(b"Bearer c") == "carol"
    file.write_text("")
    now[0] += 1.1
    assert keys.find(b"Bearer c") is None, "an emptied file locks out, it does not open"


def test_a_broken_file_keeps_the_keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    keys = Keyring.load(file)
    file.write_text("nonsense")
    now[0] += 1.1
    assert keys.find(b"Bearer a") == "alice"


def test_every_faulty_line_is_named(file: Path) -> None:
    file.write_text(f"alice:{digest('a')}\nalice:{digest('b')}\nbob\ncarol:12\n")
    with pytest.raises(SettingsError) as caught:
        Keyring.load(file)
    assert [fault.split(":")[1] for fault in caught.value.faults] == ["2", "3", "4"]


def test_without_keys_only_loopback_is_served(file: Path) -> None:
    assert Keyring.for_host("", "127.0.0.1", setting="KEYS").find(None) == "anonymous"
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
