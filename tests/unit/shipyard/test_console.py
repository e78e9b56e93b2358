"""What a person sees goes to stderr; stdout carries the answer alone."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from shipyard import console
from shipyard.models import BuildResult

Captured = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Answer:
    kind: str
    version: str
    files: tuple[str, ...] = ()


def test_marks_on_stderr(capsys: Captured) -> None:
    for say in (console.step, console.skip, console.info, console.warn, console.error):
        say("text")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "==> text\n  - text\n    text\nwarning: text\nerror: text\n"


def test_results_on_stdout(capsys: Captured) -> None:
    console.result("line")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("line\n", "")


def test_a_captured_stream_is_no_terminal() -> None:
    assert not console.is_terminal()


def test_a_table_is_aligned_without_blanks_at_the_end(capsys: Captured) -> None:
    console.table(("name", "state"), iter([("llm-call-api", "running"), ("redis", "")]))
    assert capsys.readouterr().out == "name          state\nllm-call-api  running\nredis\n"


def test_a_table_without_rows_is_its_header(capsys: Captured) -> None:
    console.table(("name", "state"), [])
    assert capsys.readouterr().out == "name  state\n"


def test_an_answer_for_a_person(capsys: Captured) -> None:
    console.answer(
        {
            "overlay": None,
            "version": "1.2.3",
            "count": 0,
            "detail": "",
            "services": [{"service": "redis", "ports": 1}, {"service": "api", "ports": None}],
            "api": ["changed a", "added b"],
            "redis": [],
        },
        empty="up to date",
    )
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "overlay: -",
        "version: 1.2.3",
        "count: 0",
        "detail: -",
        "service  ports",
        "redis    1",
        "api      None",
        "api:",
        "    changed a",
        "    added b",
        "redis: up to date",
    ]


def test_an_answer_that_is_a_record(capsys: Captured) -> None:
    console.answer(Answer("host", ""))
    assert capsys.readouterr().out.splitlines()[:2] == ["kind: host", "version: -"]


def test_an_answer_for_a_program_is_one_document(capsys: Captured) -> None:
    console.answer(Answer("host", "28.5.2", ("a",)), json=True)
    assert json.loads(capsys.readouterr().out) == {"kind": "host", "version": "28.5.2", "files": ["a"]}


def test_a_document_of_records(capsys: Captured) -> None:
    built = BuildResult("api", "prod", "linux/amd64", "api:1", "sha256:a", 10, "built", "not built yet", 1.5)
    console.document([built])
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == [
        {
            "name": "api",
            "target": "prod",
            "platform": "linux/amd64",
            "reference": "api:1",
            "digest": "sha256:a",
            "size": 10,
            "status": "built",
            "reason": "not built yet",
            "seconds": 1.5,
        }
    ]


def test_a_document_of_something_else_says_what_it_cannot_hold() -> None:
    with pytest.raises(TypeError, match="object"):
        console.document({"value": object()})


def test_megabytes_are_decimal() -> None:
    assert [console.megabytes(size) for size in (0, 50_000, 90_000_000)] == ["0.0 MB", "0.1 MB", "90.0 MB"]
