"""What a stranger wrote, before a terminal or a log shows it. Pure functions."""

from __future__ import annotations

#: Characters of one value that are shown.
MOST = 2000


def shown(text: str, most: int = MOST) -> str:
    """One line without anything that moves a cursor, changes colours, turns the writing or is invisible.

    Everything that Unicode does not count as printable is written as Python would: ESC as ``\\x1b``, a line's end as
    ``\\n``, a bidi control as ``\\u202e``. Of more than ``most`` characters the first ones are shown.
    """
    cut = text if len(text) <= most else text[:most]
    safe = "".join(map(_safe, cut))
    return safe if len(text) <= most else f"{safe}... ({len(text):,} characters)"


def lines(text: str) -> str:
    """The same for a text of our own with several lines: ends of lines and tabulators stay, and nothing is cut."""
    return (
        text
        if text.isascii() and text.isprintable()
        else "".join(each if each in "\n\t" else _safe(each) for each in text)
    )


def _safe(character: str) -> str:
    if character.isprintable() and character not in _INVISIBLE:
        return character
    number = ord(character)
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(number) or (
        f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
    )


#: Letters by their category that show nothing: fillers of Hangul, and Braille's blank.
_INVISIBLE = frozenset("\u115f\u1160\u2800\u3164\uffa0")
