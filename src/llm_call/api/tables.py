"""Reads typed values out of a parsed TOML document, noting every fault with its place and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class Tables:
    """The readers of one file at `path`. A faulty value is noted in `faults` and replaced by the default."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[str] = []

    def fault(self, place: str, message: str) -> None:
        """Note a fault."""
        self.faults.append(f"{self.path}: {place}: {message}")

    def table(self, raw: Mapping[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
        """Return the table `key`, empty if there is none."""
        value = raw.get(key, {})
        if isinstance(value, dict):
            return value
        self.fault(prefix + key, "is a table, such as [upstream.openai]")
        return {}

    def known(self, raw: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> None:
        """Note every key that is none of `known`."""
        known = list(known)
        for key in raw:
            if key not in known:
                self.fault(prefix + key, f"unknown key{perhaps(key, known)}")

    def text(self, raw: Mapping[str, Any], place: str, key: str, *, required: bool = True) -> str | None:
        """Return a text that is not empty."""
        value = raw.get(key)
        if isinstance(value, str) and value:
            return value
        if value is not None:
            self.fault(f"{place}.{key}", "is a text that is not empty")
        elif required and not difflib.get_close_matches(key, [each for each in raw if each != key]):
            # Where a key looks like a misspelling of this one, that one fault is enough.
            self.fault(f"{place}.{key}", "is missing")
        return None

    def texts(self, raw: Mapping[str, Any], place: str, key: str) -> list[str]:
        """Return a list of texts, empty if there is none."""
        value = raw.get(key)
        if value is None:
            return []
        if isinstance(value, list) and value and all(isinstance(each, str) and each for each in value):
            return list(value)
        self.fault(f"{place}.{key}", 'is a list of names, such as ["max/sonnet", "openai/gpt-4o"]')
        return []

    def number(
        self, raw: Mapping[str, Any], place: str, key: str, default: float, *, least: float = 0.0, most: float = 86400.0
    ) -> float:
        """Return a number above `least` and not above `most`."""
        value = raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least < value <= most:
            self.fault(f"{place}.{key}", f"is a number above {least:g}, at most {most:g}")
            return default
        return float(value)

    def whole(self, raw: Mapping[str, Any], place: str, key: str, default: int, *, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`."""
        value = raw.get(key, default)
        if type(value) is not int or not least <= value <= most:
            self.fault(f"{place}.{key}", f"is a whole number from {least} to {most}")
            return default
        return value

    def flag(self, raw: Mapping[str, Any], place: str, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = raw.get(key, default)
        if isinstance(value, bool):
            return value
        self.fault(f"{place}.{key}", "is true or false")
        return default


def perhaps(wrong: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest of `known`, or at all of them."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1)
    if near:
        return f'; perhaps you meant "{near[0]}"'
    return f"; known: {', '.join(known)}" if known else ""
