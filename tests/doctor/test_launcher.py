"""`./scripts/invoke`: Ctrl-C before a verb has begun is one line and 130, in a verb it is the verb's own matter."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT

#: The tasks of a checkout: Ctrl-C comes while they are looked for, or after a verb has begun.
EARLY = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
LATE = "import os, signal\nfrom verbs import verb\n\n@verb()\ndef one(_):\n    {}\n"


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """Of a checkout whose environment is this one."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "requirements/toolkit.txt", tmp_path / "requirements")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "requirements/toolkit.txt", tmp_path / ".venv/.lock")
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return tmp_path / "scripts/invoke"


def run(launcher: Path, tasks: str) -> tuple[int, str]:
    (launcher.parents[1] / "tasks.py").write_text(tasks)
    done = subprocess.run(
        [launcher, "one"], cwd=launcher.parent, check=False, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


def test_before_a_verb_has_begun(launcher: Path) -> None:
    assert run(launcher, EARLY) == (130, "error: interrupted\n")


def test_in_a_verb(launcher: Path) -> None:
    assert run(launcher, LATE.format("os.kill(os.getpid(), signal.SIGINT)")) == (130, "error: interrupted\n")
    caught = "try: os.kill(os.getpid(), signal.SIGINT)\n    except KeyboardInterrupt: raise SystemExit(7)"
    assert run(launcher, LATE.format(caught)) == (7, "")


def test_whoever_is_to_ignore_it_does(launcher: Path) -> None:
    """As a shell has it for what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(launcher, LATE.format("os.kill(os.getpid(), signal.SIGINT)")) == (0, "")
    finally:
        signal.signal(signal.SIGINT, before)
