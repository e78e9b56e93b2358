"""What a build takes from the machine besides the checkout's files: the commit, its time, the CA certificates."""

from __future__ import annotations

import os
from pathlib import Path

from shipyard.commands.debian import EPOCH
from shipyard.errors import ShipyardError
from shipyard.run import run

#: Where CA bundles lie, in the order in which OpenSSL's users look: variables first, then Debian's place.
_BUNDLES = ("SHIPYARD_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_DEBIAN_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def revision(root: Path) -> tuple[str, int]:
    """Commit and its time in seconds since 1970 (SOURCE_DATE_EPOCH); "unknown" and a fixed time outside a git checkout."""
    try:
        commit, epoch = run(["git", "log", "-1", "--format=%H %ct"], cwd=root, timeout=30).stdout.split()
        dirty = run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, timeout=30).stdout.strip()
    except (ShipyardError, ValueError):  # no checkout, no commit, no git
        commit, epoch, dirty = "unknown", str(EPOCH), ""
    return commit + ("-dirty" if dirty else ""), int(os.environ.get("SOURCE_DATE_EPOCH") or epoch)


def absent_bundles() -> tuple[str, ...]:
    """Variables that name a CA bundle which is not there, as ``NAME=path``: the next one is taken without a word."""
    named = {name: value for name in _BUNDLES if (value := os.environ.get(name))}
    return tuple(f"{name}={value}" for name, value in named.items() if not Path(value).is_file())


def ca_bundle() -> Path | None:
    """The host's CA certificates: behind a proxy that intercepts TLS, build steps need them as a secret; no image holds them."""
    named = [Path(value) for name in _BUNDLES if (value := os.environ.get(name))]
    return next((path for path in (*named, _DEBIAN_BUNDLE) if path.is_file()), None)
