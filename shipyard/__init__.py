"""Builds, runs and tests the container images of the llm_call gateway. It does not know Invoke exists.

``shipyard.images`` and its siblings are imported when they are first named: a verb pays only for what it uses.
"""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as missing:
        if missing.name != f"{__name__}.{name}":
            raise  # a library that the module wants
        raise AttributeError(name) from missing
