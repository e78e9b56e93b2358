"""The production image of the API ends a server that hangs, so that the engine starts it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import docker
from shipyard.models import BuildResult
from tests.support.images import api_keys, await_health, running
from tests.support.service import wait_until

SECOND = 1_000_000_000
HANG = "import os,signal;from serving import hung;[os.kill(each.pid, signal.SIGSTOP) for each in hung.servers(8001)]"


@pytest.mark.native("an emulated probe takes longer than the time after which a server counts as hung")
def test_a_server_that_hangs_is_ended_and_started_anew(
    client: docker.DockerClient, built: dict[tuple[str, str], BuildResult], tmp_path: Path
) -> None:
    reference = built["api", "prod"].reference
    check = client.images.get(reference).attrs["Config"]["Healthcheck"]
    assert check["Test"][-2:] == ["--end-after", "3"]
    _, options = api_keys(tmp_path)
    options |= {"environment": {"LLM_CALL_KEYS_FILE": "/run/secrets/keys"}, "restart_policy": {"Name": "always"}}
    # The image's own check, only more often.
    options["healthcheck"] = {"test": check["Test"], "interval": SECOND // 2, "timeout": 5 * SECOND, "retries": 3}
    with running(client, reference, **options) as container:
        await_health(container)
        status, output = container.exec_run(["python3", "-c", HANG])
        assert status == 0, output.decode()
        wait_until(lambda: restarts(container) == 1, "the restart", 40)
        await_health(container)
        said = container.logs().decode()
        assert (
            '"message": "http://127.0.0.1:8001/health/live: no answer within 2 s (3 in a row); ending process' in said
        )


def restarts(container: Any) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])
