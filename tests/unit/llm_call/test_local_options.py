"""What is said of a llama-server that is not there, or that nobody may run."""

from __future__ import annotations

from pathlib import Path

from llm_call.api.local.options import Options


def test_a_program_that_is_missing_or_may_not_run(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    assert Options(str(program)).lack.startswith(f"there is no {program} here: ")
    program.write_text("")
    assert Options(str(program)).found() is None
    assert Options(str(program)).lack.startswith(f"{program} is not executable; ")
    assert Options(str(tmp_path)).lack.startswith(f"{tmp_path} is a folder; ")
    assert Options("no-such-program").lack.startswith("there is no no-such-program here: ")
