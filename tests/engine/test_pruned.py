"""Pruning an engine while a release tests what it has loaded there: on an engine of the test's own, where nobody else's is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

import docker
from shipyard import images, loading
from shipyard.engine import Engine, api, packages
from shipyard.errors import EngineFailed
from tests.engine.conftest import Home
from tests.support import registries

MARK = "0123456789ab"


def test_what_is_tested_is_not_pruned(home: Home, tmp_path: Path) -> None:
    home.invoke("engine.up")
    engine = Engine(f"unix://{home.root}/run/docker.sock", str(packages.binaries() / "docker"), "embedded")
    native = images.native(engine)
    made = registries.artifact(tmp_path / "layout", "127.0.0.1:5000")
    loaded = [loading.load(engine, made, MARK, native), loading.load(engine, made, MARK, native, "linux/arm64")]
    client = docker.DockerClient(base_url=engine.host)
    try:
        with loading.held(engine, loaded, MARK):
            client.api.prune_images({"dangling": False})
            client.api.prune_images({"dangling": True})
            loading.check(engine, loaded)
            for each in loaded:
                made_of = client.api.create_container(each.digest, command=["none"], platform=each.platform)
                client.api.remove_container(made_of["Id"])
        # Whoever removes stopped containers too, as `docker system prune` does, ends the release: it says so.
        with loading.held(engine, loaded, MARK):
            client.api.prune_containers()
            client.api.prune_images({"dangling": False})
            with pytest.raises(EngineFailed, match="which names nothing while it was tested"):
                loading.check(engine, loaded)
        assert api.get(engine.host, "/containers/json?all=1") == []
        again = loading.load(engine, made, MARK, native)
        loading.unload(engine, [again])
        assert api.image(engine.host, again.name) is None
    finally:
        client.close()
