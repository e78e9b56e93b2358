"""A fuzzer of `invoke verify`: `python -m tests.support.fuzz_verify --seconds 60 [--seed N]`.

Each round takes a good release, lets one thing of the registry be otherwise (``mutations``), and verifies it. Wrong are: an
exception that is none of the toolkit's, an end later than its limit, a line that steers a terminal, a good verdict about
other bytes than those that were signed, and a bad one where only garbage was added.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import shipyard
from shipyard import channel_statements, registry_http, signing_keys, verification
from shipyard.errors import ShipyardError
from tests.support import hostile_registry, mutations
from tests.support.hostile_registry import Release

#: Seconds that a round gets, and one that has to end well; how much later it may end: a busy machine lets it wait.
LIMIT, LONG, LATE = 1.5, 60.0, 30.0


class Wrong(AssertionError):
    """A round that must not be."""


@contextmanager
def quick() -> Iterator[None]:
    """Verification without cosign, a process for each round, and with short waits between attempts."""
    before = signing_keys.present, registry_http._FIRST, registry_http._LONGEST
    signing_keys.present = lambda: False
    registry_http._FIRST, registry_http._LONGEST = 0.001, 0.01
    try:
        yield
    finally:
        signing_keys.present, registry_http._FIRST, registry_http._LONGEST = before


class Rounds:
    """Rounds against one registry, which is good again after each of them."""

    def __init__(self, release: Release) -> None:
        self.release = release
        server = release.server
        self._before = copy.deepcopy((server.blobs, server.manifests, server.tags, server.attached))
        self.ends: Counter[str] = Counter()

    def once(self, seed: int, kind: str = "") -> str:
        """One round; how it ended. Raises Wrong."""
        dice, server = random.Random(seed), self.release.server
        server.blobs, server.manifests, server.tags, server.attached = copy.deepcopy(self._before)
        server.turn, server.referrers, server.seen = None, dice.random() < 0.7, []
        (self.release.checkout.state / channel_statements.SEEN).unlink(missing_ok=True)
        kind = kind or dice.choice(list(mutations.EVERY))
        mutations.EVERY[kind](dice, self.release)
        place = server.address
        what = dice.choice(("1.2.3", "1.2.3", f"{place}/tiny:latest", f"{place}/tiny:1.2", self.release.prod.digest))
        limit = LONG if kind == "garbage" else LIMIT
        options = verification.Options(timeout=limit, deep=dice.random() < 0.3)
        begun, said = time.monotonic(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            end = self._verify(what, options, kind)
        took = time.monotonic() - begun
        if took > limit + LATE:
            msg = f"{kind} {seed}: it took {took:.1f} s"
            raise Wrong(msg)
        if shown := [each for each in said.getvalue() if not each.isprintable() and each != "\n"]:
            msg = f"{kind} {seed}: shown as they are: {sorted(set(shown))!r}"
            raise Wrong(msg)
        self.ends[f"{kind}: {end}"] += 1
        return end

    def _verify(self, what: str, options: verification.Options, kind: str) -> str:
        try:
            report = shipyard.verification.verify(self.release.checkout, what, self.release.server.address, options)
            with contextlib.suppress(ShipyardError):
                verification.show(report, json=False)
            verification.show(report, json=True)
        except ShipyardError as failed:
            shipyard.console.error(str(failed))
            if kind == "garbage":
                msg = f"garbage beside the good ones: {failed}"
                raise Wrong(msg) from failed
            return type(failed).__name__
        if [each.digest for each in report.images] != [self.release.prod.digest] and kind != "store":
            msg = f"good, and yet {report.images!r}"
            raise Wrong(msg)
        return "good"


def main() -> int:
    """Run for a while; 1 when something was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    given = parser.parse_args()
    os.environ["DOCKER_CONFIG"] = os.devnull + "-folder"
    print(f"seed {given.seed}; one round again: Rounds(release).once({given.seed} + NUMBER)", flush=True)
    wrong, number, begun, told = 0, 0, time.monotonic(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, hostile_registry.release(Path(folder)) as release, quick():
        rounds = Rounds(release)
        while time.monotonic() - begun < given.seconds:
            try:
                rounds.once(given.seed + number)
            except Exception as problem:
                wrong += 1
                print(f"WRONG in round {number}: {type(problem).__name__}: {str(problem)[:500]!a}", flush=True)
                if not isinstance(problem, Wrong):
                    traceback.print_exc(limit=-6)
            number += 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"{number} rounds, {wrong} wrong, {told - begun:.0f} s", flush=True)
        print(f"{number} rounds in {time.monotonic() - begun:.0f} s, {wrong} wrong")
        for end, count in sorted(rounds.ends.items()):
            print(f"  {count:>8} {end}")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
