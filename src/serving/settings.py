"""Typed settings from environment variables; every fault is collected and reported at once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

EX_CONFIG = 78
"""Exit code of a service that was configured wrongly (sysexits.h)."""

IDS = Path("/proc/self/uid_map")
SHIFTED = (
    " (the engine gives this container other user ids, by userns-remap or rootless: `invoke doctor` says what to do)"
)

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


class SettingsError(Exception):
    """Wrong configuration. `faults` holds one line each: where, what, what to try."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Secret:
    """A value that must not be seen: every way to print it gives `[REDACTED]`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; the only way to it."""
        return self._value

    def __repr__(self) -> str:
        return "[REDACTED]"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("[REDACTED]", spec)

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is never serialised"
        raise TypeError(msg)


class Env:
    """Reads settings by name. A faulty one yields its default; `finish()` then raises with all faults.

    An empty variable counts as not set: compose files produce `NAME=` for what nobody configured.
    """

    def __init__(self, mapping: Mapping[str, str] | None = None) -> None:
        self._mapping = os.environ if mapping is None else mapping
        self._faults: list[str] = []

    def fault(self, place: str, message: str) -> None:
        """Note a fault found by the caller, to be raised with the others."""
        self._faults.append(f"{place}: {message}")

    def text(self, name: str, default: str = "") -> str:
        """Return the variable, surrounding blanks removed."""
        return self._mapping.get(name, "").strip() or default

    def integer(self, name: str, default: int, *, minimum: int | None = None, maximum: int | None = None) -> int:
        """Return a whole number within the bounds, both inclusive."""
        raw = self.text(name)
        if not raw:
            return default
        try:
            value = int(raw)
        except ValueError:
            self.fault(name, f'"{raw}" is not a whole number; for example {default}')
            return default
        return value if self._within(name, value, minimum, maximum) else default

    def seconds(self, name: str, default: float, *, minimum: float | None = 0.0, maximum: float | None = None) -> float:
        """Return a duration in seconds; fractions are allowed."""
        raw = self.text(name)
        if not raw:
            return default
        try:
            value = float(raw)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.fault(name, f'"{raw}" is not a number of seconds; for example {default:g}')
            return default
        return value if self._within(name, value, minimum, maximum) else default

    def flag(self, name: str, default: bool) -> bool:
        """Return a switch: 1/true/yes/on or 0/false/no/off, in any case."""
        raw = self.text(name).lower()
        if raw in TRUE:
            return True
        if raw in FALSE:
            return False
        if raw:
            self.fault(name, f'"{raw}" is neither true nor false')
        return default

    def secret(self, name: str) -> Secret | None:
        """Return the secret in the file named by NAME_FILE, else in NAME; None when there is none or it is empty."""
        place = f"{name}_FILE"
        path = self.text(place)
        value = self.text(name)
        if path:
            try:
                value = Path(path).read_text("utf-8").strip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                self.fault(place, f"cannot read {path}: {reason(error)}; check that the secret exists and is readable")
                return None
        return Secret(value) if value else None

    def finish(self) -> None:
        """Raise SettingsError if any setting read so far was faulty."""
        if self._faults:
            raise SettingsError(list(self._faults))

    def _within(self, name: str, value: float, minimum: float | None, maximum: float | None) -> bool:
        if minimum is not None and value < minimum:
            self.fault(name, f"{value:g} is too small; the least is {minimum:g}")
            return False
        if maximum is not None and value > maximum:
            self.fault(name, f"{value:g} is too large; the most is {maximum:g}")
            return False
        return True


def without_password(url: str) -> str:
    """Return a URL, well formed or not, without what stands before its @: it may be shown."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('//')[0]}//[REDACTED]@{tail}" if at else url


def reason(error: Exception) -> str:
    """Return the short reason of a failed file access: `no such file or directory`, not the whole errno text."""
    text = error.strerror if isinstance(error, OSError) else None
    more = SHIFTED if isinstance(error, PermissionError) and _shifted() else ""
    return (text or str(error)).lower() + more


def _shifted() -> bool:
    """Whether this container's user ids are others outside (user_namespaces(7)): not all of them stand for themselves."""
    try:
        return IDS.read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False
