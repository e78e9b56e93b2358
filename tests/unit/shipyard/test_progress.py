"""BuildKit's rawjson events: what a person reads while a build runs, and which step broke it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shipyard import console, progress
from shipyard.progress import Progress, Step, parse_step

BOTH = ["api-prod", "redis-prod"]
FAILED = 'process "/bin/sh -c make" did not complete successfully: exit code: 2'
CANCELLED = 'process "/bin/sh -c sleep 9" did not complete successfully: context canceled'


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    yield clock


def event(digest: str, name: str, **state: Any) -> str:
    """One line as ``docker buildx bake --progress rawjson`` writes it; True stands for a time."""
    times = {
        key: "2026-01-01T00:00:00Z" if value is True and key != "cached" else value for key, value in state.items()
    }
    return json.dumps({"vertexes": [{"digest": f"sha256:{digest}", "name": name, **times}]})


def log(digest: str, text: str | bytes) -> str:
    data = b64encode(text.encode() if isinstance(text, str) else text).decode()
    entry = {"vertex": f"sha256:{digest}", "stream": 1, "data": data, "timestamp": "2026-01-01T00:00:00Z"}
    return json.dumps({"logs": [entry]})


def step(name: str, targets: list[str]) -> tuple[str, str]:
    parsed = parse_step(name, targets)
    return parsed.target, parsed.text


# --- names ---


def test_names_in_a_request_with_several_targets() -> None:
    found = {
        name: step(name, BOTH)
        for name in (
            "[api-prod rootfs 1/1] RUN make",
            "[redis-prod linux/arm64 builder 2/3] COPY --chown=1:1 --link a  b /x",
            "[api-prod internal] load build definition from Dockerfile",
            "[api-prod] exporting to image",
            "[internal] load metadata for docker.io/library/debian:trixie-slim",
            "exporting to image",
        )
    }
    assert found == {
        "[api-prod rootfs 1/1] RUN make": ("api-prod", "rootfs 1/1 RUN make"),
        "[redis-prod linux/arm64 builder 2/3] COPY --chown=1:1 --link a  b /x": (
            "redis-prod",
            "linux/arm64 builder 2/3 COPY a b /x",
        ),
        "[api-prod internal] load build definition from Dockerfile": (
            "api-prod",
            "internal load build definition from Dockerfile",
        ),
        "[api-prod] exporting to image": ("api-prod", "exporting to image"),
        "[internal] load metadata for docker.io/library/debian:trixie-slim": (
            "",
            "[internal] load metadata for docker.io/library/debian:trixie-slim",
        ),
        "exporting to image": ("", "exporting to image"),
    }


def test_names_in_a_request_with_one_target() -> None:
    only = ["api-prod"]
    assert step("[rootfs 1/1] RUN make", only) == ("api-prod", "rootfs 1/1 RUN make")
    assert step("[linux/arm64 builder 2/3] RUN make", only) == ("api-prod", "linux/arm64 builder 2/3 RUN make")
    assert step("exporting to image", only) == ("api-prod", "exporting to image")
    assert step("[internal] load build context", only) == ("", "[internal] load build context")


def test_a_stage_of_no_known_target_belongs_to_nobody() -> None:
    assert step("[web-prod rootfs 1/1] RUN make", BOTH) == ("", "web-prod rootfs 1/1 RUN make")


def test_long_instructions_and_heredocs_are_cut() -> None:
    assert step(
        "[rootfs 1/2] RUN --mount=type=cache,target=/c --mount=type=bind,source=a,target=/a <<EOF (set -eu)", ["a"]
    ) == (
        "a",
        "rootfs 1/2 RUN",
    )
    assert step("[rootfs 1/2] RUN " + "x" * 100, ["a"]) == ("a", "rootfs 1/2 RUN " + "x" * 65)
    assert step("", ["a"]) == ("", "")
    assert step("importing cache\nof another", ["a"]) == ("", "importing cache")


# --- a build that succeeds ---


def test_a_success_prints_each_step_that_took_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(BOTH) as watched:
        watched.line(event("0", "[internal] load build definition", started=True))
        clock.now += 0.5
        watched.line(event("0", "[internal] load build definition", started=True, completed=True))
        watched.line(event("1", "[api-prod rootfs 1/2] RUN make"))
        watched.line(event("1", "[api-prod rootfs 1/2] RUN make", started=True))
        watched.line(log("1", "making\n"))
        clock.now += 2.25
        watched.line(event("1", "[api-prod rootfs 1/2] RUN make", started=True, completed=True))
        watched.line(event("2", "[redis-prod rootfs 1/1] COPY a /a", started=True, completed=True, cached=True))
        watched.line(event("3", "[api-prod rootfs 2/2] RUN true", started=True))
        clock.now += 0.04
        watched.line(event("3", "[api-prod rootfs 2/2] RUN true", started=True, completed=True))
        clock.now += 9
        watched.line(event("3", "[api-prod rootfs 2/2] RUN true", started=True, completed=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "    api-prod           rootfs 1/2 RUN make  2.2 s\n"
    assert watched.finished == {"api-prod": pytest.approx(2.79), "redis-prod": pytest.approx(2.75)}
    assert watched.failed() is None
    assert watched.other == []
    made = watched.steps["sha256:1"]
    assert (made.target, made.done, made.cached, made.seconds, list(made.log)) == (
        "api-prod",
        True,
        False,
        2.25,
        ["making"],
    )
    assert watched.steps["sha256:2"].cached


def test_events_that_say_nothing_to_us_are_taken_in_silence(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(["api-prod"]) as watched:
        watched.line(json.dumps({"statuses": [{"id": "extracting", "vertex": "sha256:1"}]}))
        watched.line(json.dumps({"vertexes": None, "logs": None, "warnings": [{"vertex": "sha256:1"}]}))
        watched.line(log("unknown", "said by nobody\n"))
    assert capsys.readouterr().err == ""
    assert (watched.steps, watched.other, watched.finished) == ({}, [], {})


def test_lines_that_are_no_events_are_kept_for_the_error() -> None:
    with Progress(["api-prod"]) as watched:
        for line in ("Dockerfile:3", '{"cut off', "ERROR: failed to solve"):
            watched.line(line)
    assert watched.other == ["Dockerfile:3", '{"cut off', "ERROR: failed to solve"]


# --- a build that fails ---


def test_the_step_that_failed_and_its_last_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(BOTH) as watched:
        watched.line(event("1", "[api-prod rootfs 1/2] RUN make", started=True))
        watched.line(log("1", "".join(f"line {number}\n" for number in range(30))))
        clock.now += 1
        watched.line(event("1", "[api-prod rootfs 1/2] RUN make", started=True, completed=True, error=FAILED))
    broken = watched.failed()
    last = deque((f"line {number}" for number in range(10, 30)), maxlen=20)
    assert broken == Step(
        "api-prod", "rootfs 1/2 RUN make", 100.0, 1.0, cached=False, done=True, error=FAILED, log=last
    )
    assert capsys.readouterr().err == ""


def test_cancelled_steps_are_not_the_reason() -> None:
    with Progress(BOTH) as watched:
        watched.line(event("1", "[redis-prod rootfs 1/1] RUN sleep 9", started=True))
        watched.line(event("2", "[api-prod rootfs 1/1] RUN make", started=True))
        watched.line(event("1", "[redis-prod rootfs 1/1] RUN sleep 9", completed=True, error=CANCELLED))
        watched.line(event("2", "[api-prod rootfs 1/1] RUN make", completed=True, error=FAILED))
    broken = watched.failed()
    assert broken and (broken.target, broken.error) == ("api-prod", FAILED)


def test_a_cancelled_step_is_named_when_there_is_no_other(clock: Clock) -> None:
    with Progress(BOTH) as watched:
        watched.line(event("1", "[redis-prod rootfs 1/1] RUN sleep 9", started=True))
        watched.line(event("1", "[redis-prod rootfs 1/1] RUN sleep 9", completed=True, error=CANCELLED))
    broken = watched.failed()
    assert broken and broken.target == "redis-prod"


def test_output_that_arrives_in_pieces_is_put_together() -> None:
    # BuildKit hands over what the process wrote as it was written: a line, or a character of it, may be cut in two.
    text = "compiling kröner.c\ndone\n".encode()
    cut = text.index("ö".encode()) + 1
    with Progress(["api-prod"]) as watched:
        watched.line(event("1", "[rootfs 1/1] RUN make", started=True))
        watched.line(log("1", text[:cut]))
        watched.line(log("1", text[cut:]))
    assert "\n".join(watched.steps["sha256:1"].log).rstrip("\n") == "compiling kröner.c\ndone"


def test_last_words_without_a_newline_are_shown() -> None:
    with Progress(["api-prod"]) as watched:
        watched.line(event("1", "[rootfs 1/1] RUN make", started=True))
        watched.line(log("1", "making\nfatal: no"))
        watched.line(event("1", "[rootfs 1/1] RUN make", started=True, completed=True, error=FAILED))
    broken = watched.failed()
    assert broken and list(broken.log) == ["making", "fatal: no"]


# --- on a terminal ---


def test_a_terminal_gets_one_row_for_each_image(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    watched = Progress(BOTH)
    watched.line(event("1", "[api-prod rootfs 1/2] RUN make", started=True))
    watched.line(event("1", "[api-prod rootfs 1/2] RUN make", started=True, completed=True))
    watched.line(event("2", "[api-prod rootfs 2/2] RUN more", started=True))
    clock.now += 3.5
    assert watched._live
    table = watched._live._render()
    assert [list(column.cells) for column in table.columns] == [
        ["api-prod", "redis-prod"],
        ["rootfs 2/2 RUN more", "0 steps done"],
        ["  3.5 s", ""],
    ]
    assert capsys.readouterr().err == "", "finished steps are lines only where nobody watches"
