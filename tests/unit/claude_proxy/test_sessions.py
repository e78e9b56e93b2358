from __future__ import annotations

import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from claude_proxy.conversation import Ask, Turn
from claude_proxy.sessions import Sessions
from claude_proxy.settings import Limits
from serving.errors import ApiError

SIZE = 1 << 20


def turn(role: str, text: str) -> Turn:
    return Turn(role, [{"type": "text", "text": text}])


def ask(text: str, system: str = "", history: list[Turn] | None = None) -> Ask:
    return Ask("opus", system, history or [], turn("user", text).content, session="one")


def say(sessions: Sessions, asked: Ask, answer: str, key: str = "me") -> Ask:
    """One whole request; returns what the CLI would have been asked."""
    session = sessions.open(key, asked.session)
    try:
        extended = session.extend(asked)
        session.save(extended, [turn("assistant", answer)], SIZE)
        return extended
    finally:
        session.close()


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "sessions", Limits(count=2, seconds=60))


def test_a_conversation_goes_on_with_the_new_message_alone(sessions: Sessions) -> None:
    say(sessions, ask("one", system="be brief"), "first")
    second = say(sessions, ask("two"), "second")
    assert second.system == "be brief"
    assert second.history == [turn("user", "one"), turn("assistant", "first")]
    third = say(sessions, ask("three", system="be long"), "third")
    assert third.system == "be long"
    assert len(third.history) == 4


def test_the_first_request_may_bring_a_history_and_later_ones_may_not(sessions: Sessions) -> None:
    history = [turn("user", "a"), turn("assistant", "b")]
    assert say(sessions, ask("c", history=history), "d").history == history
    with pytest.raises(ApiError, match="already holds 4 turns; send only the new messages") as caught:
        say(sessions, ask("e", history=history), "f")
    assert caught.value.status == 400
    assert len(say(sessions, ask("e"), "f").history) == 4


def test_a_key_cannot_see_the_session_of_another(sessions: Sessions, tmp_path: Path) -> None:
    say(sessions, ask("one"), "first")
    assert say(sessions, ask("two"), "other", key="you").history == []
    folders = [path for path in (tmp_path / "sessions").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    elsewhere = Sessions(tmp_path / "elsewhere", Limits())
    say(elsewhere, ask("one"), "first")
    assert not {path.name for path in folders} & {path.name for path in (tmp_path / "elsewhere").iterdir()}


def test_one_request_at_a_time(sessions: Sessions) -> None:
    session = sessions.open("me", "one")
    with pytest.raises(ApiError) as caught:
        sessions.open("me", "one")
    assert (caught.value.status, caught.value.code) == (409, "session_busy")
    sessions.open("me", "two").close()
    session.close()
    sessions.open("me", "one").close()


def test_a_request_that_failed_leaves_the_session_as_it_was(sessions: Sessions, tmp_path: Path) -> None:
    sessions.open("me", "one").close()
    assert [path.name for path in (tmp_path / "sessions").glob("*/*")] == []
    say(sessions, ask("one"), "first")
    sessions.open("me", "one").close()
    assert len(say(sessions, ask("two"), "second").history) == 2


def test_only_so_many_are_kept_the_oldest_goes(sessions: Sessions, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        say(sessions, replace(ask("x"), session=name), "y")
        os.utime(next((tmp_path / "sessions").glob(f"*/{name}.jsonl")), (time.time() - 30 + number,) * 2)
    assert sorted(path.name for path in (tmp_path / "sessions").glob("*/*")) == [
        "b.jsonl",
        "b.lock",
        "c.jsonl",
        "c.lock",
    ]


def test_silence_ends_a_session(sessions: Sessions, tmp_path: Path) -> None:
    say(sessions, ask("one"), "first")
    path = next((tmp_path / "sessions").glob("*/one.jsonl"))
    os.utime(path, (time.time() - 61,) * 2)
    assert say(sessions, ask("two"), "second").history == []
    os.utime(path, (time.time() - 61,) * 2)
    sessions.sweep()
    assert list((tmp_path / "sessions").glob("*/*")) == []


def test_a_session_has_a_size(sessions: Sessions) -> None:
    session = sessions.open("me", "one")
    with pytest.raises(ApiError, match="would grow beyond 100 bytes"):
        session.save(ask("x" * 100), [turn("assistant", "y")], 100)
    session.close()
    assert say(sessions, ask("two"), "z").history == []
