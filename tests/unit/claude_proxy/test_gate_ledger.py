from __future__ import annotations

import contextlib

import pytest

from claude_proxy.conversation import Ask
from claude_proxy.gate import ledger
from claude_proxy.gate.document import Asked
from claude_proxy.gate.ledger import Account, Ledger, Rights, names
from claude_proxy.gate.refusal import Refusal
from claude_proxy.gate.rights import own_calls, rights
from claude_proxy.settings import Gate, Settings

MIB = 1024 * 1024


def account(
    model: str = "haiku", calls: int = 3, tokens: int = 100, until: float = 50.0, search: bool = False
) -> Account:
    return Account(1, Rights(model, calls, tokens, until, search))


@pytest.mark.parametrize(
    ("granted", "model"),
    [
        ("haiku", "claude-haiku-5-5"),
        ("haiku", "claude-haiku-5"),
        ("haiku", "claude-haiku-4-5-20251001"),
        ("opus", "claude-opus-5-5"),
        ("claude-haiku-4-5", "claude-haiku-4-5"),
        ("claude-opus-4-1[1m]", "claude-opus-4-1"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5@20251001"),
    ],
)
def test_the_name_that_the_cli_uses_for_what_was_asked(granted: str, model: str) -> None:
    assert names(granted, model)


@pytest.mark.parametrize(
    ("granted", "model"),
    [
        ("haiku", "claude-opus-5-5"),
        ("haiku", "haiku"),
        ("haiku", "claude-haiku"),
        ("haiku", "claude-haiku-"),
        ("haiku", "claude-haiku-x"),
        ("haiku", "claude-haiku-5-5-opus"),
        ("haiku", "claude-opus-haiku-5"),
        ("opus", "claude-opus-haiku"),
        ("haiku", "claude-3-haiku-20240307"),
        ("haiku", "Claude-Haiku-5-5"),
        ("haiku", "claude-haiku-5-5 "),
        ("haiku", "claude-haiku-5-5\n"),
        ("haiku", " claude-haiku-5-5"),
        ("haiku", "claude-haiku-5-5[1m]"),
        ("haiku", "claude-haiku-\u0665"),
        ("haiku", "claude-ha\u0456ku-5-5"),
        ("haiku", "max/haiku"),
        ("haiku", "anthropic/claude-haiku-5-5"),
        ("haiku", ""),
        ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("claude-haiku-4-5", "claude-haiku-4-5[1m]"),
        ("claude-haiku-4-5", "CLAUDE-haiku-4-5"),
        ("claude-x", "claude-xy"),
        ("claude-opus-4-1[1m]", "claude-opus-4-1[1m]"),
        ("claude-a.c", "claude-abc"),
    ],
)
def test_no_other_name_passes(granted: str, model: str) -> None:
    assert not names(granted, model)


def test_an_alias_stands_for_one_model_of_a_run() -> None:
    run = account()
    run.admit(Asked("claude-haiku-5-5"))
    run.admit(Asked("claude-haiku-5-5"))
    with pytest.raises(Refusal, match='"claude-haiku-5-5", not "claude-haiku-4-5"') as refused:
        run.admit(Asked("claude-haiku-4-5"))
    assert (refused.value.status, refused.value.reason) == (403, "model")


def test_a_search_needs_its_tool() -> None:
    with pytest.raises(Refusal, match="WebSearch"):
        account().admit(Asked("claude-haiku-5-5", search=True))
    account(search=True).admit(Asked("claude-haiku-5-5", search=True))


def test_what_is_used_up_is_named_with_its_setting() -> None:
    run = account()
    run.check(49.9)
    run.calls, run.tokens = 2, 99
    run.check(0)
    run.calls = 3
    with pytest.raises(Refusal, match="CLAUDE_PROXY_REQUEST_CALLS") as refused:
        run.check(0)
    assert refused.value.status == 429
    assert refused.value.headers == {"x-should-retry": "false"}
    run.calls, run.tokens = 0, 100
    with pytest.raises(Refusal, match="CLAUDE_PROXY_REQUEST_TOKENS"):
        run.check(0)
    with pytest.raises(Refusal, match="CLAUDE_PROXY_DEADLINE") as refused:
        run.check(50.0)
    assert refused.value.status == 401


def test_a_token_is_known_from_its_grant_to_its_end() -> None:
    book, run = Ledger(), account()
    with pytest.raises(Refusal) as refused:
        book.find(b"run-a")
    assert refused.value.status == 401
    book.grant("run-a", run)
    assert book.find(b"run-a") is run
    for other in (b"", b"run-", b"run-A", b"run-ab"):
        with pytest.raises(Refusal):
            book.find(other)
    assert book.revoke("run-a") is run
    assert book.revoke("run-a") is None
    with pytest.raises(Refusal):
        book.find(b"run-a")


def test_large_bodies_of_some_leave_room_for_small_ones_of_others() -> None:
    book = Ledger()
    with contextlib.ExitStack() as held:
        for _ in range(ledger.ALL_BODY_BYTES // ledger.BODY_BYTES):
            run = account()
            held.enter_context(book.holding(run, ledger.BODY_BYTES))
            with pytest.raises(Refusal) as refused, book.holding(run, 1):
                pass
            assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
        other = account()
        with book.holding(other, MIB), pytest.raises(Refusal), book.holding(other, 1):
            pass
    with book.holding(other, ledger.BODY_BYTES):
        pass


def test_rights_follow_the_request_and_its_key() -> None:
    settings = Settings(gate=Gate(calls=50, tokens=7), retries=1)
    plain = rights(Ask("opus", "", [], [], tools=()), settings)
    assert (plain.model, plain.calls, plain.tokens, plain.search) == ("opus", own_calls(1), 7, False)
    assert rights(Ask("opus", "", [], [], tools=("Bash",)), settings).calls == 50
    assert rights(Ask("opus", "", [], [], servers=("docs",)), settings).calls == 50
    keyed = Ask("opus", "", [], [], tools=("WebSearch",), calls=90, tokens=3)
    assert (rights(keyed, settings).calls, rights(keyed, settings).tokens, rights(keyed, settings).search) == (
        90,
        3,
        True,
    )
    assert rights(Ask("opus", "", [], [], calls=2), settings).calls == 2
    # What a gateway says of its client only takes away.
    for most, left in ((90, 50), (3, 3)):
        asked = Ask("opus", "", [], [], tools=("Bash",), most_calls=most, most_tokens=most)
        assert (rights(asked, settings).calls, rights(asked, settings).tokens) == (left, min(most, 7))
