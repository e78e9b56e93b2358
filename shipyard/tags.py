"""VERSION and target to references. Pure functions."""

from __future__ import annotations


def tag(version: str, target: str) -> str:
    """The tag of a target: the version itself for prod, ``<version>-<target>`` for the others."""
    return version if target == "prod" else f"{version}-{target}"


def reference(repository: str, version: str, target: str, registry: str = "") -> str:
    """``[registry/]repository:tag``."""
    prefix = registry.rstrip("/") + "/" if registry else ""
    return f"{prefix}{repository}:{tag(version, target)}"
