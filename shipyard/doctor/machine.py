"""Looks at disk, memory, clock, kernel and what is at work."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import time
from datetime import datetime
from pathlib import Path

from shipyard import debian_locks, lease
from shipyard.diagnosis import machine as judge
from shipyard.diagnosis.finding import Finding, skip
from shipyard.diagnosis.machine import Kernel, Place
from shipyard.doctor.patient import Patient
from shipyard.engine.types import home
from shipyard.errors import ConfigError, ShipyardError
from shipyard.run import run
from shipyard.world import lease_of

#: Bytes for temporary files: the tree of a base image and its archive (0.4 GB together), and a margin.
_TEMPORARY = 10**9
#: linux/landlock.h: the system call that makes a ruleset, and the flag that asks for the version instead.
_CREATE_RULESET, _VERSION = 444, 1


def disk(patient: Patient) -> Finding:
    """Free space where the checkout, the toolkit, the engine and temporary files are."""
    wanted = [(patient.root, "checkout", judge.LEAST), (home(), "toolkit", judge.LEAST)]
    if patient.local and (data := patient.info.get("DockerRootDir")):
        wanted.append((Path(data), "engine", judge.LEAST))
    wanted.append((Path(tempfile.gettempdir()), "temporary files", _TEMPORARY))
    found: dict[int, Place] = {}
    for path, use, least in wanted:
        there = next(each for each in (path, *path.parents) if each.exists())
        device, room = there.stat().st_dev, os.statvfs(there)
        earlier = found.get(device)
        found[device] = Place(
            earlier.path if earlier else str(there),
            f"{earlier.uses}, {use}" if earlier else use,
            free=room.f_bavail * room.f_frsize,
            total=room.f_blocks * room.f_frsize,
            files=room.f_favail if room.f_files else None,
            least=max(least, earlier.least if earlier else 0),
        )
    return judge.disk(found.values())


def memory(patient: Patient) -> Finding:
    """What Linux says of it."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return skip("this machine has no /proc/meminfo")
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    total, available = (int(kilobytes.get(name, 0)) * 1024 for name in ("MemTotal", "MemAvailable"))
    return judge.memory(total, available, judge.limits(patient.compose("compose.yaml"), patient.settings))


def clock(patient: Patient) -> Finding:
    """Ours, the engine's, and the commit's."""
    try:
        commit = int(run(["git", "log", "-1", "--format=%ct"], cwd=patient.root, timeout=30).stdout)
    except (ShipyardError, ValueError):  # no checkout, no commit, no git
        commit = 0
    try:
        ahead = datetime.fromisoformat(patient.info["SystemTime"]).timestamp() - patient.at
    except (KeyError, ValueError, TypeError):
        return judge.clock(time.time(), None, commit)
    now = time.time()
    return judge.clock(now, now + ahead, commit)


def kernel(patient: Patient) -> Finding:
    """What it offers to the Claude proxy's sandbox."""
    filters = not patient.info or any("seccomp" in each for each in patient.info.get("SecurityOptions") or ())
    unconfined = any("profile=unconfined" in each for each in patient.info.get("SecurityOptions") or ())
    confined = filters and not unconfined
    if not patient.local or os.uname().sysname != "Linux":
        release = str(patient.info.get("KernelVersion") or os.uname().release)
        return judge.kernel(Kernel(release, None, None, confined))
    try:
        notifications: bool | None = "user_notif" in Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except OSError:
        notifications = None
    return judge.kernel(Kernel(os.uname().release, _landlock(), notifications, confined))


def _landlock() -> int:
    """The version of Landlock that this kernel offers, 0 for none."""
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION)))


def locks(patient: Patient) -> Finding:
    """Every image that locks Debian packages has a lock that can be read."""
    project, lacking, known = patient.known, [], 0
    wanted = {debian_locks.place(each) for each in debian_locks.locking(project, project.images.values())}
    for path in sorted(wanted | ({debian_locks.BUILDER} if wanted else set())):
        try:
            found = debian_locks.read(project, path)
        except ConfigError as failed:
            lacking.append(str(failed.faults[0]))
            continue
        known += len(found)
        if not found:
            lacking.append(f"{path} is missing or empty")
    return judge.locks(lacking, known)


def at_work(patient: Patient) -> Finding:
    """Whether a release of this checkout is under way."""
    owner = lease.read(lease_of(patient.known))
    return judge.lease(str(owner or ""), lease.alive(owner) if owner else None)
