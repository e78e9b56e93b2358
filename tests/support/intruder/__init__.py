"""What an intruder tries: one program of the standard library alone, that runs as text wherever a Python does.

`program()` is that text; its arguments are attempts as JSON, `{"name": [function, argument, ...]}`, and it prints one
JSON object of what became of each: `done: ...`, `refused: ...`, or `broken: ...` where the attempt itself is at fault.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

PARTS = ("network", "files", "kernel", "hunt", "bombs", "quotas", "main")


def program() -> str:
    """All parts as one text, for `python3 -I -c`."""
    return "\n".join(Path(__file__).with_name(f"{part}.py").read_text() for part in PARTS)


def argv(attempts: Mapping[str, Sequence[str]]) -> list[str]:
    """The command that makes these attempts."""
    return ["python3", "-I", "-c", program(), json.dumps(attempts)]


def shell(attempts: Mapping[str, Sequence[str]]) -> str:
    """The same for a shell, without a character that a shell, JSON or the double's markers would understand."""
    coded = [base64.b64encode(text.encode()).decode() for text in (program(), json.dumps(attempts))]
    text, given = (f'"$(echo {each} | base64 -d)"' for each in coded)
    return f"python3 -I -c {text} {given}"
