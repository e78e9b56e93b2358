"""The error tree: one class per kind of failure, each with its own exit code.

A message says where, what, and what to try. ``tasks.py`` prints it and exits with ``exit_code``; nothing else catches it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shipyard import plain_text

if TYPE_CHECKING:
    from shipyard.models import Fault


#: What an error ends with when something of this machine is missing.
DOCTOR = "`invoke doctor` says what is missing here, and what mends it"


class ShipyardError(Exception):
    """Any failure the toolkit knows how to explain. ``see`` says where to look when this machine lacks something."""

    exit_code = 1
    see = ""


class ConfigError(ShipyardError):
    """Faults in files of the project, all of them at once."""

    exit_code = 3

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in faults))


class UnknownName(ShipyardError):
    """A name given by the user (image, target, platform, service) that does not exist."""

    exit_code = 4


class EngineMissing(ShipyardError):
    """No Docker engine is reachable and none can be run here."""

    exit_code = 5
    see = DOCTOR


class EngineFailed(ShipyardError):
    """An engine is there, but it refused, broke or went away."""

    exit_code = 6
    see = DOCTOR


class BuildFailed(ShipyardError):
    """A build step failed; the message holds its image, its place and its last lines."""

    exit_code = 7


class OverBudget(ShipyardError):
    """An image is larger than ``docker/images.toml`` allows."""

    exit_code = 8


class PortInUse(ShipyardError):
    """A port that the stack publishes is taken."""

    exit_code = 9


class StackFailed(ShipyardError):
    """A service of the stack did not start or did not become healthy."""

    exit_code = 10


class DiskFull(ShipyardError):
    """No space left where the engine or the toolkit writes."""

    exit_code = 11


class NotWritable(ShipyardError):
    """A file or folder of the checkout, or of the toolkit, that this user may not read or write."""

    exit_code = 23


class BaseUnavailable(ShipyardError):
    """The base image can be neither pulled nor bootstrapped."""

    exit_code = 12
    see = DOCTOR


class RegistryFailed(ShipyardError):
    """A registry cannot be reached, refuses what it should take, or breaks."""

    exit_code = 15

    def __init__(self, text: str, log: Sequence[str] = ()) -> None:
        """``text`` becomes one line, since it may quote what the registry said; lines of a ``log`` stay lines below it."""
        super().__init__("\n    ".join(map(plain_text.shown, (text, *log))))


class AccessDenied(ShipyardError):
    """A registry wants other credentials, or does not let these write."""

    exit_code = 16

    def __init__(self, text: str) -> None:
        super().__init__(plain_text.shown(text))  # as above


class SigningFailed(ShipyardError):
    """No key, a key that its password does not open, or cosign refuses."""

    exit_code = 17


class VerificationFailed(ShipyardError):
    """What is published is not what it should be; the message lists every fault."""

    exit_code = 18


class ReleaseRefused(ShipyardError):
    """A release may not begin; the message lists every reason."""

    exit_code = 19


class ReleaseBusy(ShipyardError):
    """Another release of this checkout is under way; the message names its owner."""

    exit_code = 20


class NotReproducible(ShipyardError):
    """A rebuild gave other bytes; the message names layer, path and kind of each difference."""

    exit_code = 21


class LockStale(ShipyardError):
    """Locked Debian packages can no longer be had; the message names them and what a refresh would change."""

    exit_code = 22


class NoGpu(ShipyardError):
    """A GPU is asked for, and this machine or its engine has none to give."""

    exit_code = 14
    see = DOCTOR


class Unhealthy(ShipyardError):
    """`invoke doctor` found something that a verb needs and has not."""

    exit_code = 24


class ToolMissing(ShipyardError):
    """A program that a verb calls is not on this machine."""

    exit_code = 25
    see = DOCTOR


class CommandFailed(ShipyardError):
    """A program that we started ended with an error nobody translated."""

    exit_code = 13

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        self.argv, self.status, self.stderr = tuple(argv), status, stderr
        tail = "\n".join(stderr.strip().splitlines()[-15:])
        super().__init__(f"{argv[0]} ended with status {status}" + (f":\n{tail}" if tail else ""))


def of_the_disk(failed: OSError) -> ShipyardError | None:
    """What the system's error means to a user where it is about space or permissions, wherever it came up; else None."""
    if failed.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left ({failed}); make room and run this again")
    if failed.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR) and failed.filename:
        return NotWritable(f"{failed}; see to its owner, mode and mount, and run this again")
    return None
