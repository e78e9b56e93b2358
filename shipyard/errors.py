"""The error tree: one class per kind of failure, each with its own exit code.

A message says where, what, and what to try. ``tasks.py`` prints it and exits with ``exit_code``; nothing else catches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipyard.models import Fault


class ShipyardError(Exception):
    """Any failure the toolkit knows how to explain."""

    exit_code = 1


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


class EngineFailed(ShipyardError):
    """An engine is there, but it refused, broke or went away."""

    exit_code = 6


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


class BaseUnavailable(ShipyardError):
    """The base image can be neither pulled nor bootstrapped."""

    exit_code = 12


class NoGpu(ShipyardError):
    """A GPU is asked for, and this machine or its engine has none to give."""

    exit_code = 14


class CommandFailed(ShipyardError):
    """A program that we started ended with an error nobody translated."""

    exit_code = 13

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        self.argv, self.status, self.stderr = tuple(argv), status, stderr
        tail = "\n".join(stderr.strip().splitlines()[-15:])
        super().__init__(f"{argv[0]} ended with status {status}" + (f":\n{tail}" if tail else ""))
