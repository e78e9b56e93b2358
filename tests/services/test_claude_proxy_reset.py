"""A runner becomes as it was before: nothing of a run is left, and what cannot be removed is noticed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from claude_proxy import reset, runner
from tests.support.runners import only_root


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    place = tmp_path / "work"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def nested(place: Path) -> None:
    deep = place / "a"
    deep.mkdir()
    for _ in range(80):
        deep = deep / "deeper"
        deep.mkdir()
    (place / "shut").mkdir()
    (place / "shut/file").touch()
    (place / "shut").chmod(0)
    (place / "link").symlink_to("/etc")
    (place / "\xff\n").write_text("odd")


def fifo(place: Path) -> None:
    os.mkfifo(place / "pipe")


@only_root
@pytest.mark.parametrize("leave", [nested, fifo])
def test_what_a_run_leaves_is_removed(
    memory: Path, leave: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reset, "WRITABLE", ())
    leave(memory)
    reset.clean(memory)
    assert list(memory.iterdir()) == []
    assert Path("/etc").exists()


@only_root
def test_a_file_without_a_name_is_noticed(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reset, "WRITABLE", ())
    monkeypatch.setattr(reset, "SETTLE_SECONDS", 0.05)
    with (memory / "file").open("w"):
        (memory / "file").unlink()
        with pytest.raises(reset.UncleanError, match="files without a name"):
            reset.clean(memory)
    reset.clean(memory)


def test_a_cli_that_may_not_look_up_names_is_told_an_address() -> None:
    assert runner.addressed("http://localhost:3011") == "http://127.0.0.1:3011"
    assert runner.addressed("http://127.0.0.1:3011/x") == "http://127.0.0.1:3011/x"
    with pytest.raises(OSError, match="no-such-host"):
        runner.addressed("http://no-such-host.invalid:3011")
