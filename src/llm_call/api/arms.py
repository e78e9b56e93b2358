"""What was seen of one route's arms, by this instance and by the others, with the past discounted.

Answers are counted in numbered segments. A segment ends after SEGMENT answers, but not before SEGMENT_SECONDS, and the
next one begins; everything older then weighs DECAY times as much. Few requests are thus discounted by their number,
many by time. Each instance publishes what it saw itself, segment by segment, and only that: merging is replacing what is
known of the others, so a lost, late or repeated exchange neither loses nor doubles an answer, and nothing needs to be
added up in Redis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

import orjson

from llm_call.api.thompson import Sums

SEGMENT = 25
SEGMENT_SECONDS = 0.25
"""Bounds what is lost to a rush: however many requests there are, the last second counts."""
DECAY = 0.8
"""0.8 per 25 answers is 0.991 per answer: about 125 of them count. Chosen with bench/routing.py."""
SEGMENTS = 21
"""How many are kept: the next one would weigh less than a hundredth."""
LARGEST = 1e12
"""Of a number in a document; a larger one was not written by us."""

Document = dict[int, dict[str, Sums]]
"""What one instance saw: by segment and arm."""

_FIELDS = len(fields(Sums))


class Evidence:
    """One route. Not for several threads."""

    def __init__(self, now: float) -> None:
        self._segment = 0
        self._opened = now
        self._answers = 0.0
        self._own: Document = {}
        self._others: tuple[Document, ...] = ()
        self._totals: dict[str, Sums] = {}
        # Where to count an answer of each arm: in the segment that goes on, and in the totals.
        self._current: dict[str, tuple[Sums, Sums]] = {}

    def arms(self, names: Sequence[str]) -> list[Sums]:
        """Return the discounted sums of each arm; one of which nothing is known gets empty ones."""
        return [self._totals.get(name) or Sums() for name in names]

    def remembered(self, names: Sequence[str]) -> list[Sums]:
        """Return the sums of each arm over all segments that still count, without discount."""
        found = {name: Sums() for name in names}
        for document in (self._own, *self._others):
            for segment in document.values():
                for name in found.keys() & segment.keys():
                    found[name].include(segment[name])
        return list(found.values())

    def record(self, arm: str, now: float, ok: bool, log_seconds: float | None, cost: float | None) -> None:
        """Count one answer. `now` is in seconds, of any clock."""
        # A clock that was set back ends the segment too, instead of keeping it for as long.
        if self._answers >= SEGMENT and not 0.0 <= now - self._opened < SEGMENT_SECONDS:
            self._move(self._segment + 1, now)
        self._answers += 1.0
        for sums in self._current.get(arm) or self._entries(arm):
            sums.add(ok, log_seconds, cost)

    def correct(self, arm: str, quality: float) -> None:
        """Add `quality`, which may be negative, to the arm's.

        It counts like an answer of now: people rate minutes later, when the answer itself is long discounted.
        """
        for sums in self._current.get(arm) or self._entries(arm):
            sums.quality += quality

    def _entries(self, arm: str) -> tuple[Sums, Sums]:
        segment = self._own.setdefault(self._segment, {})
        found = self._current[arm] = segment.setdefault(arm, Sums()), self._totals.setdefault(arm, Sums())
        return found

    def merge(self, others: Iterable[Document], now: float) -> None:
        """Replace what is known of the other instances."""
        self._others = tuple(others)
        newest = max((max(each) for each in self._others if each), default=self._segment)
        self._move(max(newest, self._segment), now)

    def export(self) -> bytes:
        """Return what this instance saw itself, as JSON; empty if none of it counts any more."""
        if not self._own:
            return b""
        document = {
            str(segment): {name: astuple(sums) for name, sums in arms.items()} for segment, arms in self._own.items()
        }
        return orjson.dumps(document)

    def outdated(self, document: Mapping[int, object]) -> bool:
        """Whether a document is so old that its instance, which would have renewed it, is gone."""
        return max(document, default=0) < self._segment - 2 * SEGMENTS

    def _move(self, segment: int, now: float) -> None:
        """Go on with `segment`, which is not older, and add everything up again."""
        if segment > self._segment:
            self._segment, self._opened = segment, now
        oldest = segment - SEGMENTS + 1
        self._own = {number: arms for number, arms in self._own.items() if number >= oldest}
        self._others = tuple(
            {number: arms for number, arms in document.items() if number >= oldest} for document in self._others
        )
        self._totals, self._current = {}, {}
        for document in (self._own, *self._others):
            for number, arms in document.items():
                weight = DECAY ** (self._segment - number)
                for name, sums in arms.items():
                    self._totals.setdefault(name, Sums()).include(sums, weight)
        newest = (document.get(self._segment, {}) for document in (self._own, *self._others))
        self._answers = sum(sums.pulls for arms in newest for sums in arms.values())


def parse(text: bytes | str) -> Document:
    """Return the document of an instance. Raises ValueError if it is none."""
    document = orjson.loads(text)
    if not isinstance(document, dict):
        msg = "not an object"
        raise ValueError(msg)
    return {_number(key): _arms(value) for key, value in document.items()}


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number <= LARGEST:
        msg = f"segment {number}"
        raise ValueError(msg)
    return number


def _arms(value: Any) -> dict[str, Sums]:
    if not isinstance(value, dict):
        msg = "a segment is not an object"
        raise ValueError(msg)
    return {name: _sums(each) for name, each in value.items()}


def _sums(value: Any) -> Sums:
    if not (isinstance(value, list) and len(value) == _FIELDS and all(type(each) in (int, float) for each in value)):
        msg = "an arm is not a list of numbers"
        raise ValueError(msg)
    sums = Sums(*map(float, value))
    if not all(math.isfinite(each) and abs(each) <= LARGEST for each in map(float, value)):
        msg = "a number is too large"
        raise ValueError(msg)
    if min(sums.pulls, sums.successes, sums.timed, sums.priced, sums.cost) < 0:
        msg = "a count is negative"
        raise ValueError(msg)
    return sums
