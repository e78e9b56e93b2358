from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_proxy import bounds, cgroup, disk, failures, metrics

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
    monkeypatch.setattr(disk, "STEP_SECONDS", 0.0)
    meter = disk.Meter(str(tmp_path))
    found = [meter.measure() for _ in range(6)]
    assert found[1:] == [disk.ENTRY, 2 * disk.ENTRY, 3 * disk.ENTRY, 4 * disk.ENTRY, 4 * disk.ENTRY]


def test_every_bound_has_an_error_that_names_its_setting_and_a_figure_of_its_own() -> None:
    for name in (bounds.PIDS, bounds.MEMORY, bounds.DISK):
        error = failures.over(name, 64)
        assert (error.status, metrics.ENDED[error.code or ""]) == (400, name)
        assert " 64 " in error.message
        assert "CLAUDE_PROXY_REQUEST_" in error.message
    short = failures.over(bounds.CONTAINER, None)
    assert (short.status, metrics.ENDED[short.code or ""]) == (503, bounds.CONTAINER)
