"""The embedded engine's command line and configuration, compared as a whole."""

import json
from pathlib import Path

from shipyard.commands import engine


def test_everything_the_daemon_owns_lies_below_its_home() -> None:
    assert engine.dockerd(Path("/opt/bin/dockerd"), Path("/home/of/engine")) == [
        "/opt/bin/dockerd",
        "--config-file=/home/of/engine/daemon.json",
        "--data-root=/home/of/engine/data",
        "--exec-root=/home/of/engine/run/exec",
        "--pidfile=/home/of/engine/run/dockerd.pid",
        "--host=unix:///home/of/engine/run/docker.sock",
    ]


def test_the_configuration() -> None:
    assert json.loads(engine.daemon_json()) == {
        "features": {"containerd-snapshotter": True},
        "builder": {"gc": {"enabled": True, "defaultKeepStorage": "20GB"}},
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        "userland-proxy": False,
    }
    assert json.loads(engine.daemon_json(proxy=True))["userland-proxy"] is True


def test_nothing_from_outside_reaches_the_machines_own_loopback() -> None:
    assert engine.keep_loopback("/opt/bin/iptables", "--check") == [
        *("/opt/bin/iptables", "--wait", "--table", "raw", "--check", "PREROUTING"),
        *("!", "--in-interface", "lo", "--destination", "127.0.0.0/8", "--jump", "DROP"),
    ]
