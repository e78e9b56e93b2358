"""The journal of a release: what a crash tears does not count, what is written is on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shipyard.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "release/1.2.3.jsonl")


def test_a_line_says_who_when_and_what(journal: Journal) -> None:
    journal.write("push", "begun")
    journal.write("push", "done", {"sent": 3, "digests": {"api-prod": "sha256:1"}})
    first, second = journal.entries()
    assert (first.step, first.state, first.facts, first.pid) == ("push", "begun", {}, os.getpid())
    assert second.facts == {"sent": 3, "digests": {"api-prod": "sha256:1"}}
    assert first.time.endswith("+00:00")
    assert first.seconds <= second.seconds
    assert [set(json.loads(line)) for line in journal.path.read_text().splitlines()] == [
        {"time", "step", "state", "facts", "pid", "host"}
    ] * 2


def test_a_line_is_on_the_disk_before_the_step_goes_on(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    journal.write("push", "begun")
    journal.write("push", "done")
    assert synced == [str(journal.path), str(journal.path.parent), str(journal.path)]


@pytest.mark.parametrize("torn", [b"{", b'{"time":"2026-01-01T00:00:00.000+00:00","step":"pu', b'{"a":1}', b"\0" * 40])
def test_a_torn_line_is_written_over(journal: Journal, torn: bytes) -> None:
    journal.write("push", "begun")
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + torn)
    assert [each.state for each in journal.entries()] == ["begun"]
    journal.write("push", "done")
    assert [each.state for each in journal.entries()] == ["begun", "done"]
    assert journal.path.read_bytes().startswith(whole + b"{")
    assert torn not in journal.path.read_bytes()[len(whole) :].splitlines()


@pytest.mark.parametrize("bad", ["[]", "1", '{"step":1}', '{"time":"yesterday","step":"push","state":"done"}', "null"])
def test_what_cannot_be_read_does_not_count(journal: Journal, bad: str) -> None:
    journal.write("push", "begun")
    journal.path.write_text(journal.path.read_text() + bad + "\n")
    journal.write("push", "done")
    assert [each.state for each in journal.entries()] == ["begun", "done"]


def test_facts_of_the_last_success_of_the_same_bytes(journal: Journal) -> None:
    assert journal.facts("test") is None
    journal.write("test", "begun")
    journal.write("test", "done", {"digests": {"api-prod": "sha256:1"}, "passed": 7})
    journal.write("test", "begun")
    journal.write("test", "failed", {"digests": {"api-prod": "sha256:2"}})
    assert journal.facts("test", digests={"api-prod": "sha256:1"}) == {"digests": {"api-prod": "sha256:1"}, "passed": 7}
    assert journal.facts("test", digests={"api-prod": "sha256:2"}) is None
    journal.write("push", "skipped", {"reason": "all there"})
    assert journal.facts("push") == {"reason": "all there"}


def test_a_step_that_was_killed_is_known(journal: Journal) -> None:
    assert journal.unfinished("bump") is None
    journal.write("bump", "begun")
    journal.write("bump", "begun", {"commit": "abc"})
    assert journal.unfinished("bump") == {"commit": "abc"}
    journal.write("bump", "failed", {"reason": "interrupted"})
    journal.write("bump", "begun")  # the next attempt still knows
    assert journal.unfinished("bump") == {"commit": "abc"}
    journal.write("bump", "done")
    assert journal.unfinished("bump") is None


def test_a_step_s_time_is_that_of_its_last_success(journal: Journal) -> None:
    assert journal.span("build") is None
    lines = [("00", "begun"), ("05", "failed"), ("10", "begun"), ("12", "done"), ("20", "begun")]
    journal.path.parent.mkdir()
    journal.path.write_text(
        "".join(
            json.dumps({"time": f"2026-01-01T00:00:{second}.500+00:00", "step": "build", "state": state}) + "\n"
            for second, state in lines
        )
    )
    assert journal.span("build") == (1767225610.5, 2.0)
