"""Suggestions for names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable


def perhaps(name: str, known: Iterable[str]) -> str:
    """``perhaps you meant "x"`` when a known name is near, else the list of all known names."""
    from difflib import get_close_matches

    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f'perhaps you meant "{near[0]}"' if near else "known: " + ", ".join(known)
