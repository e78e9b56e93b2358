"""Finds a Docker engine, or runs an embedded one unpacked from Debian packages."""

from shipyard.engine.find import down, find, look, status, up
from shipyard.engine.lock import lock
from shipyard.engine.types import Engine, Status

__all__ = ["Engine", "Status", "down", "find", "lock", "look", "status", "up"]
