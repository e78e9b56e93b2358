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


def daemon_json(*, proxy: bool = False) -> str:
    """The containerd image store holds multi-platform images; the build cache is bounded so that a disk does not fill.

    Ports are forwarded by the kernel: docker-proxy, a process for each port, ends its port for good when it runs out of
    files. ``proxy`` keeps it, which forwards [::1] and other IPv6 addresses, too.
    """
    return json.dumps(
        {
            "features": {"containerd-snapshotter": True},
            "builder": {"gc": {"enabled": True, "defaultKeepStorage": "20GB"}},
            "log-driver": "json-file",
            "log-opts": {"max-size": "10m", "max-file": "3"},
            "userland-proxy": proxy,
        },
        indent=2,
    )


def keep_loopback(program: str, action: str) -> list[str]:
    """Check for, insert or delete the rule that drops what comes from elsewhere for 127.0.0.0/8.

    Forwarding 127.0.0.1 in the kernel takes route_localnet on the bridges, which lets it in; without, the kernel drops it.
    """
    rule = ["!", "--in-interface", "lo", "--destination", "127.0.0.0/8", "--jump", "DROP"]
    return [program, "--wait", "--table", "raw", action, "PREROUTING", *rule]
