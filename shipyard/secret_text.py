"""What is wrong with the text of a secret's file: not one word, not a key, or never filled in. Pure, and it shows no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: (what is wrong, what to try)
Problem = tuple[str, str]

#: Long or anchored enough that one random key in ten million has it by chance.
_PLACEHOLDER = re.compile(
    r"change[-_ ]?me|replace[-_ ]?(me|this|with)|(^|[-_ ])your[-_ ]|your(api|secret)?(key|token)|my[-_ ](api|key|token|secret)"
    r"|^(insert|paste|enter|put)[-_ ]|[-_ ]here$|placeholder|example|redacted|api[-_ ]?key|secret[-_ ]?key"
    r"|\.{3}|…|\*{3}|[<>{}$]|x{6}|0{8}|1234567|abcdefg"
    r"|^(todo|fixme|tbd|none|null|nil|unset|empty|n/?a|xxx|key|token|secret|password|test|dummy|foo|bar|abc|sk-?|sk-ant-?)$"
)
#: Fewer different characters than any random key has: "aaaaaaaaaaaa", "sk-xxxx".
_VARIETY = 6
_CLEAN = "write it anew: printf '%s\\n' KEY >FILE"


def problems(text: str, least: int) -> Iterator[Problem]:
    """Everything wrong with a file that should hold one key of at least ``least`` characters and a line end."""
    word = text.strip().lstrip("\ufeff")
    if text.startswith("\ufeff"):
        yield "begins with a byte order mark", "save it as plain UTF-8"
    if "\r" in text:
        yield "has line ends of Windows", _CLEAN
    if len(word.splitlines()) > 1:
        yield "holds several lines", "one key, in one line"
        return
    if text.strip("\ufeff\r\n") != word or text.count("\n") > 1:
        yield "has blanks or empty lines around the key", _CLEAN
    yield from _form(word)
    bare = re.sub(r"^([A-Z][A-Z0-9_]*=|[Bb]earer\s+)", "", word).strip("\"'`")
    if placeholder(bare):
        yield "looks like a placeholder", "put the real key there, or leave the file empty"
    elif len(bare) < least:
        yield f"is too short for a key: {len(bare)} characters, where {least} are the least", "was it cut off?"


def placeholder(word: str) -> bool:
    """Whether it looks like what documentation puts where a key belongs."""
    return bool(_PLACEHOLDER.search(word.lower())) or (len(word) >= _VARIETY and len(set(word)) < _VARIETY)


def _form(word: str) -> Iterator[Problem]:
    if word[:1] in ("'", '"', "`") or word[-1:] in ("'", '"', "`"):
        yield "has quotes around the key", "the key alone, as it is"
    elif re.match(r"[A-Z][A-Z0-9_]*=", word):
        yield "is written as NAME=VALUE", "the file holds the value alone"
    elif word.lower().startswith("bearer "):
        yield 'begins with "Bearer"', "the services add that themselves"
    elif not re.fullmatch(r"[\x21-\x7e]*", word):
        yield "holds blanks or characters that no key has", _CLEAN
