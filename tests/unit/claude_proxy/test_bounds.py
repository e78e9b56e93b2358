from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from claude_proxy import bounds, cgroup, disk, failures, meter, metrics, tree

GIB = 1 << 30


def test_every_request_has_a_share_of_the_containers_processes() -> None:
    share = bounds.share(512, 16)
    assert share * 16 <= 512 - bounds.RESERVE
    # One request alone may have more; from half of all on only who has less than its share.
    assert not bounds.crowded(120, 200, 512, 16)
    assert bounds.crowded(share, 256, 512, 16)
    assert not bounds.crowded(share - 1, 256, 512, 16)
    assert bounds.crowded(1, 512 - bounds.RESERVE, 512, 16)
    assert bounds.share(32, 16) == 1


def test_who_has_most_ends_first_when_the_containers_memory_ends() -> None:
    used = int(3.65 * GIB)
    assert bounds.exhausted(GIB, GIB, used, 4 * GIB)
    assert not bounds.exhausted(GIB // 8, GIB, used, 4 * GIB)
    assert bounds.exhausted(0, GIB, int(3.9 * GIB), 4 * GIB)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """Control groups of the first version."""
    for name, text in {
        "pids/pids.current": "17",
        "pids/pids.max": "512",
        "memory/memory.usage_in_bytes": "1000",
        "memory/memory.limit_in_bytes": "4096",
        "memory/memory.stat": "inactive_file 1\nactive_file 2\ntotal_inactive_file 100\ntotal_active_file 200\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    yield tmp_path


def test_both_versions_of_control_groups_are_understood(group: Path) -> None:
    pids, memory = cgroup.find(cgroup.PIDS, group), cgroup.find(cgroup.MEMORY, group)
    assert pids and memory
    assert (pids.used(), pids.limit) == (17, 512)
    assert (memory.used(), memory.limit, memory.kept()) == (1000, 4096, 700)
    (group / "memory.current").write_text("2000\n")
    (group / "memory.max").write_text("8192\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 300\nactive_file 200\nslab_reclaimable 100\nslab 9\n")
    memory = cgroup.find(cgroup.MEMORY, group)
    assert memory
    assert (memory.used(), memory.limit, memory.kept()) == (2000, 8192, 1400)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_no_limit_is_none(group: Path, limit: str) -> None:
    (group / "memory/memory.limit_in_bytes").write_text(limit)
    assert cgroup.find(cgroup.MEMORY, group) is None
    assert cgroup.find(cgroup.MEMORY, group / "nowhere") is None


def test_a_folder_is_measured_with_all_below_it_and_nothing_else(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    deeper = folder / "a/b"
    for each in (deeper, other):
        each.mkdir(parents=True)
    empty = sum(disk.sizes(str(folder)))
    (other / "large").write_bytes(b"x" * 1_000_000)
    (deeper / "link").symlink_to(other)
    (deeper / "file").write_bytes(b"x" * 100_000)
    os.link(deeper / "file", folder / "again")
    assert 100_000 <= sum(disk.sizes(str(folder))) - empty < 200_000
    assert sum(disk.sizes(str(tmp_path / "none"))) == 0


def test_a_measurement_goes_on_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(meter, "STEP_SECONDS", 0.0)
    folder = meter.Meter(lambda: disk.sizes(str(tmp_path)), 1.0)
    found = [folder.measure() for _ in range(6)]
    assert found[1:] == [disk.ENTRY, 2 * disk.ENTRY, 3 * disk.ENTRY, 4 * disk.ENTRY, 4 * disk.ENTRY]
    assert folder.whole == 4 * disk.ENTRY


@pytest.fixture
def guard(tmp_path: Path) -> bounds.Guard:
    """Over a request with tools and a GPU that may use 1 GiB."""
    limits = asdict(bounds.Bounds(memory=GIB))
    return bounds.Guard({"bounds": limits, "requests": 1, "tools": True, "gpu": True, "folder": str(tmp_path)})


def looks(guard: bounds.Guard, count: int) -> list[str]:
    found = []
    for _ in range(count):
        time.sleep(guard.pause())
        found.append(guard.look())
    return found


def test_open_files_without_end_do_not_put_off_the_look_at_memory(
    monkeypatch: pytest.MonkeyPatch, guard: bounds.Guard
) -> None:
    monkeypatch.setattr(tree, "without_file", lambda _pids: itertools.repeat(0))
    monkeypatch.setattr(tree, "resident", lambda _pids: tree.Memory(own=1))
    assert set(looks(guard, 9)) == {""}
    monkeypatch.setattr(tree, "resident", lambda _pids: tree.Memory(own=2 * GIB))
    monkeypatch.setattr(tree, "shared_out", lambda _pids: tree.Memory(own=2 * GIB))
    assert bounds.MEMORY in looks(guard, 9)


@pytest.mark.parametrize(("mapped", "over"), [(0, False), (GIB // 2, False), (GIB // 2 + 1, True)])
def test_memory_without_a_file_counts_once(
    monkeypatch: pytest.MonkeyPatch, guard: bounds.Guard, mapped: int, over: bool
) -> None:
    """Also where it is mapped; other shared memory counts where there is more of it."""
    for name in ("resident", "shared_out"):
        monkeypatch.setattr(tree, name, lambda _pids: tree.Memory(own=GIB // 2, shared=mapped))
    monkeypatch.setattr(tree, "without_file", lambda _pids: [GIB // 4, 0, GIB // 4])
    assert (bounds.MEMORY in looks(guard, 9)) == over


def test_every_bound_has_an_error_that_names_its_setting_and_a_figure_of_its_own() -> None:
    for name in (bounds.PIDS, bounds.MEMORY, bounds.DISK):
        error = failures.over(name, 64)
        assert (error.status, metrics.ENDED[error.code or ""]) == (400, name)
        assert " 64 " in error.message
        assert "CLAUDE_PROXY_REQUEST_" in error.message
    short = failures.over(bounds.CONTAINER, None)
    assert (short.status, metrics.ENDED[short.code or ""]) == (503, bounds.CONTAINER)
