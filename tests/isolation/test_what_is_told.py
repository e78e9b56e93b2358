"""What the engine, images and logs tell: no secret is among it, and one that was there would be found."""

from __future__ import annotations

import secrets

import pytest

from tests.isolation.scene import DECOY, Scene


def told(scene: Scene, *words: str) -> list[str]:
    """The secrets that stand in what the engine says."""
    text = scene.stack.copy.docker(*words)
    return [value for value in (*scene.stack.secrets(), DECOY) if value in text]


def test_inspect(scene: Scene) -> None:
    containers = scene.stack.services().values()
    assert told(scene, "inspect", *containers) == []
    assert told(scene, "inspect", scene.plain) == [DECOY]


def test_networks_and_volumes(scene: Scene) -> None:
    label = f"label={scene.stack.label}"
    for kind in ("network", "volume"):
        names = scene.stack.copy.docker(kind, "ls", "--quiet", "--filter", label).split()
        assert told(scene, kind, "inspect", *names) == []
    assert told(scene, "ps", "--all", "--filter", label, "--no-trunc", "--format", "{{json .}}") == []


def test_history_of_every_image(scene: Scene) -> None:
    copy = scene.stack.copy
    images = {
        copy.docker("inspect", "--format", "{{.Image}}", container).strip()
        for container in scene.stack.services().values()
    }
    for image in images:
        assert told(scene, "history", "--no-trunc", image) == []
        assert told(scene, "image", "inspect", image) == []
    tag = f"isolation-decoy:{secrets.token_hex(4)}"
    copy.docker("commit", "--message", DECOY, scene.plain, tag)
    try:
        assert told(scene, "history", "--no-trunc", tag) == [DECOY]
    finally:
        copy.docker("rmi", tag)


@pytest.fixture(scope="module")
def tried_keys(scene: Scene) -> list[str]:
    """Keys that clients showed, some of them wrong: none may be written down either."""
    wrong = [f"llmc-{secrets.token_urlsafe(32)}", f"sk-{secrets.token_hex(24)}"]
    for key in wrong:
        scene.stack.copy.ask("GET", f"/v1/models?key={key}", authorization=f"Bearer {key}")
    return wrong


def test_logs_of_every_service(scene: Scene, tried_keys: list[str]) -> None:
    scene.stack.bash("echo $ANTHROPIC_API_KEY $ANTHROPIC_AUTH_TOKEN; env >&2; exit 3")
    found = {
        service: [*told(scene, "logs", container), *(key for key in tried_keys if key in _log(scene, container))]
        for service, container in scene.stack.services().items()
    }
    assert found == {service: [] for service in found}
    assert set(found) >= {"llm-call-api", "claude-proxy", "egress", "redis"}


def _log(scene: Scene, container: str) -> str:
    return scene.stack.copy.docker("logs", container)
