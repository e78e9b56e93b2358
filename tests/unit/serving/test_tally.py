"""serving.tally and the verdict of serving.probe on it: which failures count, and what the file survives."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import probe, tally
from serving.probe import Silence
from serving.tally import ABSENT, ILL, SILENT, START_SECONDS, WELL

YOUNG, OLD = (77, 1.0), (77, START_SECONDS + 1)
URL = "http://127.0.0.1:9/health/live"


def counts(file: Path, *outcomes: str, life: tuple[int, float] = YOUNG) -> list[int]:
    return [tally.add(str(file), each, life) for each in outcomes]


def test_silence_counts_in_a_row_and_an_answer_begins_anew(tmp_path: Path) -> None:
    assert counts(tmp_path / "f", WELL, SILENT, SILENT, WELL, SILENT) == [0, 1, 2, 0, 1]


def test_an_error_page_neither_counts_nor_forgives(tmp_path: Path) -> None:
    assert counts(tmp_path / "f", WELL, SILENT, ILL, SILENT) == [0, 1, 1, 2]


def test_a_start_is_not_cut_short_but_does_not_last_for_ever(tmp_path: Path) -> None:
    assert counts(tmp_path / "f", *[SILENT] * 9) == [0] * 9
    assert counts(tmp_path / "f", SILENT, SILENT, life=OLD) == [1, 2]


def test_who_never_answered_is_not_ended_for_an_address_where_nobody_listens(tmp_path: Path) -> None:
    assert counts(tmp_path / "f", *[ABSENT] * 9, life=OLD) == [0] * 9
    assert counts(tmp_path / "f", WELL, ABSENT, SILENT, ABSENT) == [0, 1, 2, 3]


def test_what_another_life_left_does_not_count(tmp_path: Path) -> None:
    counts(tmp_path / "f", WELL, SILENT, SILENT)
    assert counts(tmp_path / "f", SILENT, SILENT, life=(78, 1.0)) == [0, 0]


@pytest.mark.parametrize("content", [b"", b"\0\xff", b"77", b"77 -5", b"x y", b"77 99999999999999999999999", b"7 7 7"])
def test_garbage_is_no_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert counts(tmp_path / "f", SILENT) == [0]
    assert counts(tmp_path / "f", WELL, SILENT) == [0, 1]


def test_a_service_that_is_well_costs_no_writing_and_a_count_no_space(tmp_path: Path) -> None:
    file = tmp_path / "f"
    counts(file, WELL)
    before = file.stat()
    counts(file, WELL, WELL)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    counts(file, *[SILENT] * 12)
    assert (file.stat().st_size, file.stat().st_ino) == (before.st_size, before.st_ino)


def test_no_other_file_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / "f").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        counts(tmp_path / "f", WELL)
    assert (tmp_path / "other").read_text() == "precious"


def test_where_nothing_can_be_counted_that_is_said_and_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tally, "life", lambda: OLD)
    said = [probe.judge(URL, Silence("silent"), 1), probe.judge(URL, None, 1)]
    assert said[0].startswith(f"; cannot count failures in {tmp_path}/none/serving-probe-")
    assert said[1] == ""


@pytest.mark.parametrize("url", ["http://10.0.0.1:80/", "unix:/x/api.sock:/health", "nonsense"])
def test_only_a_service_of_this_machine_is_ended(url: str) -> None:
    assert "loopback" in probe.judge(url, Silence("silent"), 1)


def test_the_first_process_has_a_life() -> None:
    born, seconds = tally.life()
    assert (born >= 0, seconds > 0) == (True, True)


@pytest.mark.parametrize(
    "arguments", [[], ["u", "--end-after"], ["u", "--end-after", "0"], ["u", "--end", "3"], ["u", "3"]]
)
def test_a_wrong_command_line_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(arguments) == 1
    assert capsys.readouterr().err == probe.USAGE + "\n"
