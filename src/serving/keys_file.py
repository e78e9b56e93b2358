"""The file of keys: lines `name:sha256hex`, each followed by options of the key such as `rpm=60`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from serving.settings import SettingsError

NAME = re.compile(r"([A-Za-z0-9._@-]{1,64}):([0-9a-fA-F]{64})")
TENANT = re.compile(r"[A-Za-z0-9._@-]{1,64}")
EVERY = ("rpm", "models")
"""The options that every service understands unless it says otherwise."""
OPEN = sha256(b"open").digest()
"""The scope of everyone where there are no keys."""
NUMBER = re.compile(r"[1-9][0-9]{0,17}")
NUMBERS = ("calls", "tokens")
"""Options of some services with one whole number: what one request of the key may have."""


@dataclass(frozen=True, eq=False)
class Key:
    """Who asks and what they may do: `rpm` in requests per minute; None means no limit, for `models` all of them.

    `options` holds the values of the options that only one service understands. `scope` says whose answers are kept
    together: 32 bytes that no other key has, unless both declare the same `tenant`. A name is not enough for that, for it
    can be given to another key.
    """

    name: str
    rpm: int | None = None
    models: tuple[str, ...] | None = None
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scope: bytes = OPEN

    def allows(self, model: str) -> bool:
        """Tell whether the key may use `model`; a name of the list that ends in `*` stands for all that begin so."""
        return self.models is None or model in self._whole or model.startswith(self._beginnings)

    @cached_property
    def _whole(self) -> frozenset[str]:
        return frozenset(self.models or ())

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(each[:-1] for each in self.models or () if each.endswith("*"))


def scope_of(key: Key | None) -> bytes:
    """Return the scope of whoever asks, also where there are no keys."""
    return key.scope if key else OPEN


Check = Callable[[Key], Iterable[str]]


def no_more(_key: Key) -> Iterable[str]:
    """Find nothing more to criticise about a key."""
    return ()


def parse(text: str, place: str, options: Collection[str] = EVERY, check: Check = no_more) -> dict[bytes, Key]:
    """Return the keys by the digests of their tokens. Raises SettingsError with every fault as `place:line: ...`.

    A service passes the `options` that it understands, and a `check` that returns what is wrong with their values.
    """
    keys: dict[bytes, Key] = {}
    faults: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        fields = raw.partition("#")[0].split()
        if not fields:
            continue
        found: list[str] = []
        match = NAME.fullmatch(fields[0])
        if match:
            digest = bytes.fromhex(match[2])
            found += _repeated(match[1], digest, keys)
            key = _key(match[1], digest, fields[1:], options, found)
            found += check(key)
            keys.setdefault(digest, key)
        else:
            found.append('not of the form "name:sha256" with 64 hexadecimal digits')
        faults += [f"{place}:{number}: {each}" for each in found]
    if faults:
        raise SettingsError(faults)
    return keys


def _repeated(name: str, digest: bytes, keys: Mapping[bytes, Key]) -> list[str]:
    if name in {each.name for each in keys.values()}:
        return [f'the name "{name}" is used twice; each key has its own name']
    if digest in keys:
        return [f'the key is the one of "{keys[digest].name}"; give each name a key of its own']
    return []


def _key(name: str, digest: bytes, words: Iterable[str], options: Collection[str], faults: list[str]) -> Key:
    given: dict[str, tuple[str, ...]] = {}
    for word in words:
        option, equals, value = word.partition("=")
        if option not in options:
            faults.append(f'unknown option "{option}"; {_advice(option, options)}')
        elif not equals:
            faults.append(f'the option "{option}" has no value; write {option}=VALUE without blanks')
        elif option in given:
            faults.append(f'the option "{option}" stands twice')
        else:
            given[option] = tuple(value.split(","))
            faults += _wrong(option, value)
    rpm, models, tenant = (given.pop(each, None) for each in ("rpm", "models", "tenant"))
    scope = _scope(b"tenant", tenant[0].encode()) if tenant else _scope(b"key", digest)
    return Key(name, int(rpm[0]) if rpm and rpm[0].isdecimal() else None, models, given, scope)


def _scope(kind: bytes, what: bytes) -> bytes:
    # The kinds have no NUL, so that a tenant is never taken for a key.
    return sha256(kind + b"\0" + what).digest()


def _wrong(option: str, value: str) -> list[str]:
    if option == "rpm":
        well = value.isascii() and value.isdigit() and int(value) > 0
        return [] if well else [f'rpm: "{value}" is not a number of requests per minute; the least is 1']
    if option == "tenant":
        named = TENANT.fullmatch(value)
        return [] if named else [f'tenant: "{value}" is not one name of 1 to 64 letters, digits and . _ @ -']
    if option in NUMBERS:
        well = bool(NUMBER.fullmatch(value))
        return [] if well else [f'{option}: "{value[:40]}" is not a number for one request; the least is 1']
    if not all(value.split(",")):
        return [f'{option}: "{value}" holds an empty name; write names with commas and no blanks between']
    if option == "models" and any("*" in each[:-1] for each in value.split(",")):
        return [f'models: "{value}": a * may only stand at the end of a name']
    return []


def _advice(option: str, options: Collection[str]) -> str:
    from difflib import get_close_matches  # only needed where something is wrong

    nearest = get_close_matches(option, options, 1)
    return f'perhaps you meant "{nearest[0]}"' if nearest else f"this service knows {', '.join(options)}"
