"""`./scripts/invoke` of a folder whose environment is the one that runs the tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.support.stack import ROOT


def launcher(folder: Path) -> Path:
    """The launcher below ``folder``; beside it is that of nox."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "requirements").mkdir(exist_ok=True)
    shutil.copy(ROOT / "requirements/toolkit.txt", folder / "requirements")
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "requirements/toolkit.txt", folder / ".venv/.lock")
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder / "scripts/invoke"
