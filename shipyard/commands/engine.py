"""The embedded engine's command line and configuration."""

from __future__ import annotations

import json
from pathlib import Path


def dockerd(program: Path, home: Path) -> list[str]:
    """Start the daemon with everything it owns below ``home``."""
    return [
        str(program),
        f"--config-file={home}/daemon.json",
        f"--data-root={home}/data",
        f"--exec-root={home}/run/exec",
        f"--pidfile={home}/run/dockerd.pid",
        f"--host=unix://{home}/run/docker.sock",
    ]


def daemon_json() -> str:
    """The containerd image store holds multi-platform images; the build cache is bounded so that a disk does not fill."""
    return json.dumps(
        {
            "features": {"containerd-snapshotter": True},
            "builder": {"gc": {"enabled": True, "defaultKeepStorage": "20GB"}},
            "log-driver": "json-file",
            "log-opts": {"max-size": "10m", "max-file": "3"},
        },
        indent=2,
    )
