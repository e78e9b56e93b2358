"""Disk, memory, clock and kernel of this machine, and what runs on it at the moment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shipyard.diagnosis import numbers
from shipyard.diagnosis.finding import Finding, fail, ok, skip, warn, worst

#: Bytes that a release needs at least: layouts, what buildx keeps, a rebuild beside them.
LEAST = 2 * 10**9
#: Files that can still be made: a root file system of an image has about 2,700 (counted), a request builds several.
LEAST_FILES = 20_000
#: Seconds by which two clocks may differ; signatures and tokens are dated.
DRIFT = 300
#: Bytes: the limit of one instance of the API, as compose/compose.yaml has it; with less nothing useful starts.
LEAST_MEMORY = 512 * 1024**2
#: Landlock came with Linux 5.13; from its version 6 on (6.12) signals stay inside a sandbox too (src/claude_proxy/landlock.py).
LANDLOCK, SCOPED = (5, 13), 6


@dataclass(frozen=True)
class Place:
    """A file system that something of ours writes to; ``uses`` says what. Bytes, those that it takes, and files."""

    path: str
    uses: str
    free: int
    total: int
    files: int | None = None
    least: int = LEAST


@dataclass(frozen=True)
class Kernel:
    """What the kernel that containers run on offers; None where it cannot be asked, for it is another machine's."""

    release: str
    landlock: int | None
    filters: bool | None
    engine_filters: bool


def disk(places: Iterable[Place]) -> Finding:
    """Room on each file system that is written to."""
    return worst([_place(each) for each in places])


def _place(place: Place) -> Finding:
    has = f"{place.path} ({place.uses}) has {_gigabytes(place.free)} of {_gigabytes(place.total)} left"
    room = "make room, for example with `docker builder prune`, or by removing what is below .shipyard/release"
    if place.free < place.least:
        return fail(f"{has}, and {_gigabytes(place.least)} may be needed", room)
    if place.files is not None and place.files < LEAST_FILES:
        return fail(f"{place.path} ({place.uses}) has room for {place.files} more files only", room)
    return ok(f"{_gigabytes(place.free)} free at {place.path} ({place.uses})")


def memory(total: int, available: int, limits: int) -> Finding:
    """Bytes of this machine, those that can be had now, and what the limits of production's services add up to."""
    seen = f"{_gigabytes(available)} of {_gigabytes(total)} available"
    if available < LEAST_MEMORY:
        return fail(
            f"{seen}; {_gigabytes(LEAST_MEMORY)} is the least", "end what uses it; `ps --sort -rss -eo rss,args`"
        )
    if total < limits:
        return warn(
            f"{seen}; the limits of production's services add up to {_gigabytes(limits)}, so under load the kernel ends some",
            "give this machine more memory",
        )
    return ok(seen)


RUNNERS = "CLAUDE_RUNNER_MEMORY"


def limits(compose: str, settings: Mapping[str, str]) -> int:
    """Bytes that the ``mem_limit`` lines of a Compose file add up to, but for model servers, which are started on demand.

    The line of the runners counts for each of them.
    """
    units = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
    total = 0
    for name, default, fixed in re.findall(r"^\s*mem_limit: *(?:\$\{(\w+):-(\w+)\}|(\w+))", compose, re.MULTILINE):
        size = re.fullmatch(r"(\d+)([kmg]?)b?", (settings.get(name) or default or fixed).lower())
        if size and not name.startswith("OLLAMA_"):
            many = compose.count("<<: *runner") if name == RUNNERS else 1
            total += int(size[1]) * units[size[2]] * many
    return total


def clock(now: float, engine: float | None, commit: int) -> Finding:
    """Seconds since 1970: ours, the engine's where one answers, and the time of the commit that is checked out."""
    shown = datetime.fromtimestamp(now, UTC).strftime("%F %T UTC")
    mend = "set this machine's clock, for example with `timedatectl set-ntp true`"
    if engine is not None and abs(engine - now) > DRIFT:
        return fail(f"{shown}; the engine's clock differs by {engine - now:.0f} s", mend)
    if commit > now + DRIFT:
        later = datetime.fromtimestamp(commit, UTC).strftime("%F %T UTC")
        return fail(f"{shown}; the commit that is checked out is of the future ({later})", mend)
    return ok(shown + ("" if engine is None else "; the engine agrees"))


def kernel(found: Kernel) -> Finding:
    """What the Claude proxy's sandbox is made of: production does not start without it."""
    seen, boot = (
        f"Linux {found.release}",
        "boot Linux 6.12 or newer with CONFIG_SECURITY_LANDLOCK, and landlock in lsm=",
    )
    if not found.engine_filters:
        return fail(
            f"{seen}: the engine runs containers without its seccomp profile",
            "start dockerd without --seccomp-profile=unconfined",
        )
    if found.landlock is None:
        if numbers.older(found.release, LANDLOCK):
            return fail(f"{seen} is too old for Landlock, without which claude-proxy does not start", boot)
        return ok(f"{seen} of the engine's machine, which may have Landlock")
    if not found.landlock:
        return fail(f"{seen} offers no Landlock, without which claude-proxy does not start", boot)
    if found.filters is False:
        return fail(f"{seen} has no seccomp user notifications, which claude-proxy needs", boot)
    if found.landlock < SCOPED:
        return warn(f"{seen}, Landlock {found.landlock}: a tool may signal another request's processes", boot)
    return ok(f"{seen}, Landlock {found.landlock}, seccomp")


def lease(owner: str, alive: bool | None) -> Finding:
    """Whether a release of this checkout is under way: another one would be refused."""
    if not owner:
        return ok("no release is under way")
    if alive is False:
        return ok(f"a release that died has left its lease ({owner}); the next one takes it over")
    return warn(f"a release is under way: {owner}", "wait for its end")


def locks(lacking: Iterable[str], known: int) -> Finding:
    """The files that lock Debian packages: ``lacking`` holds what is wrong, ``known`` how many packages are locked."""
    problems = list(lacking)
    if problems:
        return fail("; ".join(problems), "invoke lock, and commit what it changes")
    return ok(f"{known} Debian packages are locked") if known else skip("no image of this checkout locks packages")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
