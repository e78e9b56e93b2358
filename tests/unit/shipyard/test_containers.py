"""What is said of containers that are not well: the end of their logs, and whether the kernel killed them for their memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shipyard import containers
from shipyard.containers import Container
from shipyard.engine import Engine, api
from shipyard.run import Completed

API = Container("c1", "llm-call-api", "restarting", "", "sha256:1", "api:1", "h", 3, "", "2027-01-01 00:00:00")


def says(monkeypatch: pytest.MonkeyPatch, logs: str, events: str) -> list[str]:
    """Let a docker client say these; returns what it is asked."""
    asked: list[str] = []

    def run(argv: list[str], **_: object) -> Completed:
        asked.append(argv[1])
        return Completed(0, {"logs": logs, "events": events}[argv[1]], "")

    monkeypatch.setattr(containers, "run", run)
    return asked


RAISE = "killed for its memory; raise LLM_CALL_API_MEMORY in .env:"


@pytest.mark.parametrize(
    ("changed", "events", "words"),
    [
        ({"killed": True}, "", f"llm-call-api is restarting, {RAISE}"),
        ({}, "oom", f"llm-call-api is restarting, {RAISE}"),
        ({"state": "running", "health": "starting"}, "oom", f"llm-call-api is starting, {RAISE}"),
        ({"service": "redis", "killed": True}, "", "redis is restarting, killed for its memory:"),
        ({}, "", "llm-call-api is restarting:\n    (it has said nothing)"),
    ],
)
def test_one_that_was_killed_for_its_memory(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, changed: dict[str, Any], events: str, words: str
) -> None:
    says(monkeypatch, "", events)
    assert containers.last_words(engine, [dataclasses.replace(API, **changed)]).startswith(words)


def test_those_that_are_well_are_not_asked(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    asked = says(monkeypatch, "one\ntwo\n", "")
    well = dataclasses.replace(API, state="running", health="healthy")
    ended = dataclasses.replace(API, service="redis", state="exited", restarts=0)
    assert containers.last_words(engine, [well, ended]) == "redis is exited:\n    one\n    two"
    assert asked == ["logs"], "events only of one that runs again"


def test_the_engine_says_that_it_was_killed(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    document = {
        "Id": "c1",
        "Name": "/x",
        "State": {"Status": "exited", "OOMKilled": True},
        "Config": {"Image": "api:1"},
        "Image": "sha256:1",
        "NetworkSettings": {},
        "Mounts": [],
    }
    monkeypatch.setattr(api, "get", lambda host, path: document)
    found = containers.look(engine, "c1")
    assert found
    assert found.killed
