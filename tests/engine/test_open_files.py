"""What the embedded engine asks for and gets: open files, and who forwards its ports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.engine.conftest import Home


def up(home: Home, files: int, **more: str) -> str:
    """Start the engine from a shell with so many open files at the most; return what was said."""
    words = ["unshare", "--net", sys.executable, "-m", "invoke", "--search-root", str(home.checkout), "engine.up"]
    shell = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *words]
    done = subprocess.run(
        shell,
        cwd=home.checkout,
        env={**home.environment, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("files", "variables", "forwards", "needed"),
    [
        (4096, {}, "kernel", 16384),
        (18000, {}, "kernel", None),
        (18000, {"SHIPYARD_USERLAND_PROXY": "true"}, "docker-proxy", 72000),
    ],
    ids=["too few", "enough", "too few for docker-proxy"],
)
def test_what_is_granted_is_said(
    home: Home, files: int, variables: dict[str, str], forwards: str, needed: int | None
) -> None:
    said = up(home, files, **variables)
    assert f"{files} open files" in said
    assert ("warning" in said) == (needed is not None), said
    if needed:
        assert f"the engine may have {files} open files and needs {needed}" in said
    status = home.status()
    assert (status["open_files"], status["forwards"]) == (files, forwards)
    assert f"shipyard: {files} open files granted, 1048576 asked for" in (home.root / "dockerd.log").read_text()
