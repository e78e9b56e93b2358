"""JSON of a stranger: bytes to checked values, bounded in size, depth and count before anything is built of them.

Pure functions. Whatever the bytes are, the only exception is Malformed, a ValueError.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

#: Levels of tables and lists. An SBOM of ours has eight, an index four; Python's own reader ends at about a thousand.
DEPTH = 64
#: Members and items of a document in all. An SBOM of 1,000 packages has about 40,000.
COUNT = 1_000_000
#: Digits of a number. A size in bytes has at most 19.
_DIGITS = 40
#: A string, which is left out (one without an end is taken up to the end of the text), or a sign that nests or parts.
_SIGNS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|,', re.DOTALL)


class Malformed(ValueError):
    """What somebody sent is not what it should be; the text says why, in one line."""


def load(raw: bytes, *, depth: int = DEPTH, count: int = COUNT) -> Any:
    """The value of a JSON text in UTF-8 (RFC 8259). The caller bounds its size.

    Raises Malformed for what is deeper than ``depth`` levels, has more than ``count`` members and items, a member twice,
    NaN or Infinity, a lone surrogate, or is no JSON.
    """
    _measure(raw, depth, count)
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError as problem:
        _refuse(f"it is not UTF-8 (byte {problem.start})")
    except json.JSONDecodeError as problem:
        _refuse(f"it is no JSON ({problem.msg} at character {problem.pos})")
    except RecursionError:
        _refuse(f"it has more than {depth} levels")


def table(raw: bytes, **bounds: int) -> dict[str, Any]:
    """A JSON object. Raises Malformed."""
    found = load(raw, **bounds)
    if not isinstance(found, dict):
        _refuse("it is not a JSON object")
    return found


def _measure(raw: bytes, depth: int, count: int) -> None:
    level = seen = 0
    for sign in _SIGNS.finditer(raw):
        first = raw[sign.start()]
        if first in b"[{":
            level, seen = level + 1, seen + 1
            if level > depth:
                _refuse(f"it has more than {depth} levels")
        elif first in b"]}":
            level -= 1
        elif first == ord(","):
            seen += 1
        if seen > count:
            _refuse(f"it has more than {count:,} members and items")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            _refuse(f"it has the member {name[:80]!r} twice")
        if not _encodable(name) or (isinstance(value, str) and not _encodable(value)):
            _refuse("it has half of a character (a lone surrogate)")
        found[name] = value
    return found


def _encodable(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)


def _constant(name: str) -> NoReturn:
    _refuse(f"it has the number {name}, which JSON does not know")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        _refuse(f"it has a number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    found = float(digits)
    if not math.isfinite(found):
        _refuse("it has a number that is too large")
    return found


def text(value: Any, name: str, *, most: int = 4096) -> str:
    """A string that is there, with at most ``most`` characters. ``name`` is the member's, for the error."""
    if not isinstance(value, str):
        _refuse(f"its {name} is {kind(value)}, not a string")
    if len(value) > most:
        _refuse(f"its {name} has more than {most:,} characters")
    if not _encodable(value):
        _refuse(f"its {name} has half of a character (a lone surrogate)")
    return value


def optional_text(value: Any, name: str, *, most: int = 4096) -> str:
    """A string; an empty one where it is absent or null."""
    return "" if value is None else text(value, name, most=most)


def size(value: Any, name: str) -> int:
    """A number of bytes: an integer from 0 to 2^63 - 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        _refuse(f"its {name} is {kind(value)}, not a number of bytes")
    return value


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """A JSON object; an empty one where it is absent or null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(f"its {name} is {kind(value)}, not an object")
    return value


def sequence(value: Any, name: str, *, most: int) -> Sequence[Any]:
    """A list with at most ``most`` items; an empty one where it is absent or null."""
    if value is None:
        return ()
    if not isinstance(value, list):
        _refuse(f"its {name} is {kind(value)}, not a list")
    if len(value) > most:
        _refuse(f"its {name} has {len(value):,} items; at most {most:,} are read")
    return value


def kind(value: Any) -> str:
    """What a value is, for an error; never the value itself."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list"}
    return "absent" if value is None else names.get(type(value), "an object")


def _refuse(reason: str) -> NoReturn:
    raise Malformed(reason)
