"""Reads JSON in one way only, so that no other parser can understand the same bytes differently.

orjson already refuses NaN and Infinity, numbers beyond a double, lone surrogates, bytes that are not UTF-8, a byte order
mark and trailing content (RFC 8259 leaves some of these to the parser). It silently takes the last of duplicate members
and makes floats of integers beyond 64 bits; both are refused here, at any depth, and so is nesting that cannot be written
again. Only the Python standard library looks closer, and only at documents that are refused, or nearly so.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MEMBERS = 256
"""The most members of the outermost object; OpenAI's requests have about 40."""
NAME_CHARACTERS = 256
"""The longest name of a member of the outermost object."""
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 64) - 1
"""What orjson keeps exactly: signed and unsigned 64 bits."""
SUSPICIOUS_DIGITS = 19
"""So many digits in a row may be an integer out of range."""
SHOWN = 100
"""Characters of a name that an error shows."""

_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG = b"0" * SUSPICIOUS_DIGITS
_ESCAPED_COLON = re.compile(rb"(?<!\\)(?:\\\\)*\\u003[aA]")


class StrictJsonError(ValueError):
    """The text is not what we read as JSON. `member` is the path of the member at fault, empty where there is none."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.member = member


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object: its members, and the text that they make. Send `text` on, never the bytes that were read."""

    members: dict[str, Any]
    text: bytes


class Names:
    """Names of members that a service acts on: another spelling of one of them is refused, at the outermost level.

    Go's encoding/json, and many others, match names without regard to case, some without `_` and `-`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._folded: Mapping[str, str] = {fold(each): each for each in self._names}

    def check(self, members: Mapping[str, Any]) -> None:
        """Raise StrictJsonError for names that another parser could take for one that we act on, or for one another."""
        if members.keys() <= self._names:
            return
        if len(members) > MEMBERS:
            msg = f"The object has {len(members)} members; the most are {MEMBERS}."
            raise StrictJsonError(msg)
        seen: dict[str, str] = {}
        for name in members:
            if len(name) > NAME_CHARACTERS:
                msg = f'The name of the member "{name[:SHOWN]}..." is longer than {NAME_CHARACTERS} characters.'
                raise StrictJsonError(msg, name[:SHOWN])
            folded = name if name in self._names else fold(name)
            other = self._folded.get(folded) if name not in self._names else None
            other = other or seen.get(folded)
            if other is not None:
                what = f'The member "{name[:SHOWN]}" differs from "{other[:SHOWN]}" in its spelling only'
                msg = f"{what}; leave it out, or write it the same way."
                raise StrictJsonError(msg, name[:SHOWN])
            if folded:  # of names without a letter or digit nothing is left to compare
                seen[folded] = name


ANY = Names(())
"""For a reader that acts on no name in particular: only members that differ in spelling from one another are refused."""


def read(raw: bytes, names: Names = ANY) -> Document:
    """Return the JSON object in `raw`. Raises StrictJsonError."""
    try:
        members = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        msg = f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        raise StrictJsonError(msg) from None
    if not isinstance(members, dict):
        msg = "The body is not a JSON object."
        raise StrictJsonError(msg)
    text = write(members)
    # What compact writers send is often the very same text; then nothing can have been dropped or changed.
    if raw != text and (_colons(raw) != text.count(b":") or _LONG in raw.translate(_DIGITS)):
        _look_closely(raw)
    names.check(members)
    return Document(members, text)


def write(value: object, option: int = 0) -> bytes:
    """Return JSON. Raises StrictJsonError for a value that is nested more than 254 levels deep."""
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError:
        msg = "The body is nested too deeply."
        raise StrictJsonError(msg) from None


def fold(name: str) -> str:
    """Return what is left of a name for the laxest of parsers: letters and digits, without case, marks or a tail after NUL.

    That includes U+017F and U+212A, which Go takes for s and k, U+0131 and U+0130, which Java takes for i, and letters of
    other widths.
    """
    if name.isascii() and name.replace("_", "").isalnum():
        return name.replace("_", "").lower()
    plain = unicodedata.normalize("NFKD", name.partition("\0")[0]).upper().casefold()
    return "".join(letter for letter in unicodedata.normalize("NFKD", plain) if letter.isalnum())


def _colons(raw: bytes) -> int:
    """Return how many colons the document has: a member that orjson drops as a duplicate takes one along at least."""
    plain = raw.count(b":")
    return plain + len(_ESCAPED_COLON.findall(raw)) if b"\\u003" in raw else plain


class _Pairs(list[tuple[str, Any]]):
    """The members of an object as they are written, duplicates too."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    # A function of Python's, so that other threads get their turn while a large document is read.
    return _Pairs(pairs)


class _Huge(str):
    """An integer out of range."""

    __slots__ = ()


def _look_closely(raw: bytes) -> None:
    """Raise StrictJsonError for the first duplicate member or huge integer, by its path."""
    stack: list[tuple[str, Any]] = [("", json.loads(raw, object_pairs_hook=_pairs, parse_int=_integer))]
    while stack:
        path, value = stack.pop()
        if isinstance(value, _Pairs):
            _check_pairs(path, value)
            prefix = f"{path[:SHOWN]}." if path else ""
            stack.extend((prefix + name, each) for name, each in reversed(value) if isinstance(each, list | _Huge))
        elif isinstance(value, list):
            found = [(f"{path}[{index}]", each) for index, each in enumerate(value) if isinstance(each, list | _Huge)]
            stack.extend(reversed(found))
        else:
            msg = f'The number at "{path[:SHOWN]}" is beyond 64 bits; write it as a string, or smaller.'
            raise StrictJsonError(msg, path[:SHOWN])


def _check_pairs(path: str, pairs: _Pairs) -> None:
    if len({name for name, _ in pairs}) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            member = f"{path[:SHOWN]}.{name[:SHOWN]}" if path else name[:SHOWN]
            msg = f'The member "{member}" stands twice in one object; leave one out.'
            raise StrictJsonError(msg, member)
        seen.add(name)


def _integer(digits: str) -> object:
    if len(digits) < SUSPICIOUS_DIGITS:
        return 0
    return 0 if len(digits) <= SUSPICIOUS_DIGITS + 2 and LEAST_INTEGER <= int(digits) <= MOST_INTEGER else _Huge()
