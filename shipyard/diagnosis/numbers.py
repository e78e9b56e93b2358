"""Versions of other people's programs, as far as the oldest that will do is compared with the one that is there."""

from __future__ import annotations

import re

Numbers = tuple[int, ...]


def parse(text: str) -> Numbers:
    """The leading numbers: ``v2.40.3-desktop.1`` is (2, 40, 3); empty when there are none."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def show(numbers: Numbers) -> str:
    """``2.24.4``."""
    return ".".join(map(str, numbers))


def older(text: str, oldest: Numbers) -> bool | None:
    """Whether a version is too old; None when it does not say which it is."""
    found = parse(text)
    return found < oldest if found else None
