"""What Prometheus sees of the gateway's dependencies and of its disk."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from tests.services.test_api import folder as folder  # a fixture, by the name that it has there
from tests.services.test_api import free_port, gateway, start
from tests.services.test_api import upstream as upstream
from tests.support.service import Service


def samples(api: Service, name: str) -> dict[str, float]:
    """Return the samples of a metric by the value of its label."""
    text = api.get("/metrics")[1].decode()
    found = re.findall(rf'^llm_call_{name}{{\w+="([^"]*)"}} (\S+)$', text, re.MULTILINE)
    return {label: float(value) for label, value in found}


def test_dependencies_are_shown_as_readiness_has_them(folder: Path) -> None:
    with gateway(folder, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0") as api:
        assert samples(api, "dependency_up") == {"catalog": 1.0, "redis": 0.0, "claude-proxy": 1.0}
    with gateway(folder) as api:
        assert samples(api, "dependency_up") == {"catalog": 1.0, "claude-proxy": 1.0}, (
            "what is not configured is absent"
        )


def test_a_dependency_that_hangs_delays_a_scrape_for_as_long_as_a_check_may_take_and_the_next_ones_not(
    folder: Path, upstream: Service
) -> None:
    url = f"http://127.0.0.1:{upstream.port}"
    text = (folder / "models.toml").read_text()
    assert url in text
    with gateway(folder, UPSTREAM_CLAUDE_PROXY_BASE_URL="http://192.0.2.1:9/v1") as api:
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert samples(api, "dependency_up")["claude-proxy"] == 0.0
            took.append(time.monotonic() - began)
        assert took[0] < 2.5
        assert max(took[1:]) < 0.5


def test_the_disk_of_the_cache_folder_is_shown(folder: Path, tmp_path: Path) -> None:
    with gateway(folder, LLM_CALL_CACHE_FOLDER=str(tmp_path)) as api:
        disk = os.statvfs(tmp_path)
        assert samples(api, "disk_size_bytes") == {str(tmp_path): float(disk.f_blocks * disk.f_frsize)}
        free = samples(api, "disk_free_bytes")[str(tmp_path)]
        assert 0 <= free <= disk.f_blocks * disk.f_frsize
    with gateway(folder) as api:
        assert "disk_" not in api.get("/metrics")[1].decode()


def test_a_cache_folder_that_is_none_is_told() -> None:
    code, lines = start("--port", "0", LLM_CALL_CACHE_FOLDER="/nowhere")
    assert (code, len(lines)) == (78, 1)
    assert lines[0].startswith('llm-call-api: LLM_CALL_CACHE_FOLDER: "/nowhere" is no folder')
