"""Command lines that turn Debian packages into folders and tar files (mmdebstrap, apt, dpkg)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

#: Seconds since 1970 that every bootstrapped file is stamped with at most: 2026-01-01T00:00:00Z.
EPOCH = 1767225600

#: What ``debian:trixie-slim`` leaves out too (debuerreotype's slim list).
_SLIM = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)


def unpack(mmdebstrap: str, suite: str, packages: Iterable[str], folder: Path, *, keyring: Path | None) -> list[str]:
    """Unpack packages and what they depend on into a folder; no maintainer script runs, the host is not touched."""
    return [
        mmdebstrap,
        "--quiet",
        "--mode=root",
        "--variant=extract",
        "--skip=check/canwork",
        "--include=" + ",".join(packages),
        '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror of testing may lag behind its own dates
        '--aptopt=APT::Install-Recommends "false"',
        *([f"--keyring={keyring}"] if keyring else []),
        suite,
        str(folder),
    ]


def bootstrap(mmdebstrap: str, suite: str, tar: Path, *, keyring: Path | None) -> list[str]:
    """The base image as a tar file: essential packages, apt and CA certificates. Run it with ``epoch()``."""
    return [
        mmdebstrap,
        "--quiet",
        "--mode=root",
        "--variant=apt",
        "--include=ca-certificates",
        *(f"--dpkgopt={option}" for option in _SLIM),
        *([f"--keyring={keyring}"] if keyring else []),
        suite,
        str(tar),
    ]


def epoch(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a bootstrap is reproducible."""
    return {**environment, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def private_apt(state: Path) -> list[str]:
    """Options with which apt keeps lists and downloads in ``state`` and leaves the host's alone."""
    return [
        f"-oDir::State::Lists={state}/lists",
        f"-oDir::Cache={state}/cache",
        "-oAPT::Sandbox::User=root",
        "-oAcquire::Languages=none",
    ]


def loader_wrapper(root: Path, triplet: str, loader: str, program: str, name: str) -> str:
    """A script that runs an unpacked program with its own C library, so that the host's version does not matter."""
    library = root / "usr/lib" / triplet
    return (
        "#!/bin/sh\n"
        f'export XTABLES_LIBDIR="{library}/xtables"\n'
        f'exec "{root / loader}" --library-path "{library}" --argv0 {name} "{root / program}" "$@"\n'
    )
