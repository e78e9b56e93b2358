"""What a person sees: plain lines on stderr, so that stdout stays free for results and ``--json``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from shipyard import plain_text, signals


def is_terminal() -> bool:
    """Whether stderr is a terminal that a person looks at."""
    return sys.stderr.isatty()


def _line(mark: str, text: str) -> None:
    """Write a line; whatever it holds of a stranger's, no terminal takes it for a command: see ``plain_text``."""
    safe = plain_text.lines(text)
    try:
        sys.stderr.write(f"{mark} {safe}\n" if mark else f"{safe}\n")
        sys.stderr.flush()
    except OSError:
        if not signals.stopping():  # the terminal that sent SIGHUP takes no line any more; clean-up goes on
            raise


def step(text: str) -> None:
    """Something begins or was done."""
    _line("==>", text)


def skip(text: str) -> None:
    """Something was not needed; the text states the reason."""
    _line("  -", text)


def info(text: str) -> None:
    """A detail of the current step."""
    _line("   ", text)


def warn(text: str) -> None:
    """Something the user should know, though the work goes on."""
    _line("warning:", text)


def error(text: str) -> None:
    """The reason why the command ends with an error."""
    _line("error:", text)


def result(text: str) -> None:
    """A line of the answer itself, on stdout."""
    try:
        sys.stdout.write(plain_text.lines(text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `invoke logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def document(value: Any) -> None:
    """The one JSON document of a ``--json`` command, on stdout."""
    result(json.dumps(value, indent=2, default=_encodable))


def answer(value: Any, *, json: bool = False, empty: str = "none") -> None:
    """What a command found out: one JSON document, or ``key: value`` lines with tables for lists of records."""
    value = _plain(value)
    if json:
        document(value)
        return
    for key, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], dict):
            table(tuple(item[0]), [tuple(str(cell) for cell in row.values()) for row in item])
        elif isinstance(item, list):
            result(f"{key}: " + (empty if not item else "".join(f"\n    {line}" for line in item)))
        else:
            result(f"{key}: {'-' if item in (None, '') else item}")


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _encodable(value: Any) -> Any:
    plain = _plain(value)
    if plain is value:
        msg = f"{type(value).__name__} does not fit into a JSON document"
        raise TypeError(msg)
    return plain


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Left-aligned columns on stdout."""
    cells = [list(header), *[[plain_text.shown(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        result("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def megabytes(size: int) -> str:
    """Bytes as decimal megabytes (1 MB = 10^6 bytes), the unit of the budgets."""
    return f"{size / 1e6:.1f} MB"
