"""No text of a stranger steers a terminal, and every message passes here."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from shipyard import console, errors, plain_text
from shipyard.published import Finding

PAINT = "\x1b[2K\r\x07\x9b1m\u202e\u2066\u200b\u200d\ufeff\u2028\u3164\U000e0041\n"


def test_one_line_of_what_can_be_seen() -> None:
    found = plain_text.shown(PAINT)
    assert found == r"\x1b[2K\r\x07\x9b1m\u202e\u2066\u200b\u200d\ufeff\u2028\u3164\U000e0041\n"
    assert plain_text.shown("Grüße, 世界 \U0001f600 -> ok") == "Grüße, 世界 \U0001f600 -> ok"
    assert plain_text.shown("a" * 3000).endswith("aaa... (3,000 characters)")
    assert plain_text.lines("a\n\tb\x1b") == "a\n\tb\\x1b"


def test_every_character_that_is_shown_can_be_seen() -> None:
    for number in range(sys.maxunicode + 1):
        if unicodedata.category(chr(number))[0] in "CZ" and number != 32:
            assert plain_text.shown(chr(number)).isascii(), hex(number)


def test_the_edges(capsys: pytest.CaptureFixture[str]) -> None:
    for say in (console.step, console.skip, console.info, console.warn, console.error, console.result):
        say(f"a{PAINT}b")
    console.table(("x",), [(PAINT,), ("b\n==> c",)])
    console.answer({"a": PAINT, "b": [PAINT], "c": [{"d": PAINT}]})
    out, err = capsys.readouterr()
    assert [each for each in out + err if not each.isprintable() and each != "\n"] == []
    assert "==> c" not in out.splitlines()


def test_what_others_say_is_one_line() -> None:
    for failed in (errors.RegistryFailed(PAINT), errors.AccessDenied(PAINT)):
        assert str(failed).isprintable()
    assert str(Finding(PAINT[:0] or "kind", PAINT, PAINT, PAINT)).isprintable()
