"""What keeps two users of one engine apart, as far as it can be told without one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import NotFound
from python_on_whales.exceptions import DockerException

from shipyard import compose, containers, loading, owned, remembered, stack
from shipyard.artifacts import Artifact, Part
from shipyard.engine import unstarted
from shipyard.errors import StackFailed
from shipyard.models import LABEL_REFERENCE, Project

DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_a_mark_belongs_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    mark = owned.mark(one)
    assert mark == owned.mark(tmp_path / "other/../one")
    assert len({mark, owned.mark(other)}) == 2
    assert len(mark) == 12
    # Another folder at the same place, as another container has it, and another machine with the same one.
    one.rename(tmp_path / "aside")
    one.mkdir()
    assert owned.mark(one) != mark
    monkeypatch.setattr(owned.socket, "gethostname", lambda: "elsewhere")
    assert owned.mark(tmp_path / "other") != owned.mark(one)


def test_a_name_for_tests_has_digest_and_checkout() -> None:
    part = Part("linux/amd64", DIGEST, 1, ())
    made = Artifact("api", "cuda", "registry.example/team/llm-call-api", "1.2.3-cuda", DIGEST, Path(), (part,))
    assert loading.name(made, DIGEST, "abc") == "llm-call-api:1.2.3-cuda-release-0123456789abcdef-abc"


def test_services_get_digests_and_keep_their_names() -> None:
    config: dict[str, Any] = {
        "name": "llm-call-1",
        "services": {
            "api": {"image": "llm-call-api:1", "labels": {"a": "b"}},
            "ollama": {"image": "ollama/ollama:1"},
            "redis": {"image": "llm-call-redis:1"},
            "built": {"build": "."},
        },
    }
    found = compose.pins(
        config, {"llm-call-api:1": "sha256:a", "llm-call-redis:1": "sha256:r", "llm-call-other:1": "sha256:o"}
    )
    assert found == {
        "api": {"image": "sha256:a", "labels": {LABEL_REFERENCE: "llm-call-api:1"}},
        "redis": {"image": "sha256:r", "labels": {LABEL_REFERENCE: "llm-call-redis:1"}},
    }
    pinned = compose.with_pins(config, found)
    assert pinned["services"]["api"] == {"image": "sha256:a", "labels": {"a": "b", LABEL_REFERENCE: "llm-call-api:1"}}
    assert pinned["services"]["ollama"] == {"image": "ollama/ollama:1"}
    assert config["services"]["api"]["image"] == "llm-call-api:1"


def test_the_last_compose_file(project: Project) -> None:
    place = remembered.pin(project, {"api": {"image": "sha256:a"}})
    assert json.loads(place.read_text()) == {"services": {"api": {"image": "sha256:a"}}}
    assert place == project.state / "images.json"


class Networks:
    """The part of a Docker client that makes networks; ``mine`` says whether another one is quicker."""

    def __init__(self, *, late: bool, works: bool = True) -> None:
        self.network, self.late, self.works, self.there = self, late, works, set[str]()

    def exists(self, name: str) -> bool:
        return name in self.there

    def create(self, name: str) -> None:
        if self.late or not self.works:
            self.there |= {name} if self.late else set()
            raise DockerException(
                ["docker", "network", "create", name], 1, b"", b"network with that name exists already"
            )
        self.there.add(name)


def move(docker: Networks) -> Any:
    networks = {"granger-network": {"name": "hub", "external": True}, "data": {"name": "own"}}
    return SimpleNamespace(engine=None, name="llm-call-1", docker=docker, config={"networks": networks})


def test_a_network_that_another_stack_makes_at_the_same_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(containers, "strangers", lambda *_: [])
    docker = Networks(late=True)
    stack._networks(move(docker))
    assert docker.there == {"hub"}
    assert capsys.readouterr().err == ""
    stack._networks(move(Networks(late=False)))
    assert "made the network hub" in capsys.readouterr().err
    with pytest.raises(StackFailed, match="exists already"):
        stack._networks(move(Networks(late=False, works=False)))


def test_a_name_on_a_network_is_one_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "strangers", lambda *_: ["llm-call-2"])
    with pytest.raises(StackFailed, match="the network hub: llm-call-2 serves there as llm-call-api already"):
        stack._networks(move(Networks(late=False)))


class Collecting:
    """The part of a client that makes containers, on an engine that has just lost a layer so many times."""

    def __init__(self, times: int, said: str) -> None:
        self.api, self.left, self.said = self, times, said

    def create_container(
        self, image: str, *, command: list[str], platform: str, labels: dict[str, str]
    ) -> dict[str, str]:
        assert (image, command, platform) == (DIGEST, ["none"], "linux/amd64")
        if self.left:
            self.left -= 1
            raise NotFound("404", explanation=self.said)
        return {"Id": "c1"}


def test_a_layer_that_the_engine_collects_is_unpacked_again() -> None:
    """Seen when many release images with the same layers: another one's removal takes it between finding and using it."""
    lost = "NotFound: parent snapshot sha256:ad86f4a4 does not exist: not found"
    client: Any = Collecting(4, lost)
    assert unstarted.create(client, DIGEST, "linux/amd64") == "c1"
    with pytest.raises(NotFound):
        unstarted.create(Collecting(5, lost), DIGEST, "linux/amd64")  # type: ignore[arg-type]
    gone: Any = Collecting(1, "No such image")
    with pytest.raises(NotFound):
        unstarted.create(gone, DIGEST, "linux/amd64")
    assert gone.left == 0
