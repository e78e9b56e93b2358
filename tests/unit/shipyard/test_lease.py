"""One release at a time: live owners are named, dead ones replaced, lost leases noticed."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path

import pytest

from shipyard import lease
from shipyard.errors import ReleaseBusy
from tests.support.service import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "release/lease.json"


def leave(path: Path, **changed: object) -> lease.Owner:
    """What an owner wrote that no longer says anything."""
    with lease.held(path, "invoke release") as held:
        owner = dataclasses.replace(held._mine, token="another", **changed)  # type: ignore[arg-type]
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def test_the_owner_is_named_and_gone_afterwards(path: Path) -> None:
    with lease.held(path, "invoke release") as held:
        held.check()
        found = lease.read(path)
        assert found is not None
        assert lease.alive(found)
        with pytest.raises(ReleaseBusy, match=rf"invoke release, pid {found.pid} of \S+ on \S+ since .*UTC") as busy:
            lease.held(path, "invoke push").__enter__()
        assert f"ps -p {found.pid}" in str(busy.value)
        held.check()
    assert not path.exists()
    with lease.held(path, "again"):
        pass


def test_a_dead_owner_of_this_machine_is_replaced_at_once(path: Path) -> None:
    leave(path, pid=2**22 + 1)  # above the highest pid there is (proc(5), pid_max)
    begin = time.monotonic()
    with lease.held(path, "invoke release", expiry=60):
        assert time.monotonic() - begin < 5


def test_a_pid_used_again_is_another_owner(path: Path) -> None:
    leave(path, started=1)
    with lease.held(path, "invoke release", expiry=60) as held:
        held.check()


def test_an_owner_elsewhere_is_dead_when_it_no_longer_beats(path: Path) -> None:
    leave(path, machine="elsewhere", heartbeat=time.time() + 3600)  # whatever its clock says
    with lease.held(path, "invoke release", expiry=0.3) as held:
        held.check()


def test_an_owner_elsewhere_that_beats_is_busy(path: Path) -> None:
    owner = leave(path, machine="elsewhere", host="far", heartbeat=0.0)
    over = threading.Event()

    def beat() -> None:
        number = 1.0
        while not over.wait(0.02):
            lease._write(path, dataclasses.replace(owner, heartbeat=number))
            number += 1

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(ReleaseBusy, match="on far since"):
            lease.held(path, "invoke release", expiry=20).__enter__()
    finally:
        over.set()
        beating.join()


def test_a_file_that_no_owner_wrote_is_no_lease(path: Path) -> None:
    path.parent.mkdir()
    for text in ("", "{", "[]", '{"pid": 1}'):
        path.write_text(text)
        with lease.held(path, "invoke release"):
            pass


def test_the_heart_beats(path: Path) -> None:
    with lease.held(path, "invoke release", beat=0.01):
        first = lease.read(path)
        assert first is not None
        wait_until(lambda: (now := lease.read(path)) and now.heartbeat > first.heartbeat, "a heartbeat")


def test_a_lost_lease_stops_its_owner_and_stays_another_s(path: Path) -> None:
    with lease.held(path, "invoke release", beat=0.01) as held:
        other = dataclasses.replace(held._mine, token="other", pid=7, what="invoke promote")
        lease._write(path, other)
        with pytest.raises(ReleaseBusy, match=r"lost its lease .* invoke promote, pid 7"):
            held.check()
        assert not held.beat()
    assert lease.read(path) == other
    path.unlink()
    with pytest.raises(ReleaseBusy, match="its file is gone"):
        held.check()


def test_of_many_that_begin_at_once_one_works_at_a_time(path: Path) -> None:
    leave(path, pid=2**22 + 1)
    inside, most, busy = [], [], []
    gate = threading.Barrier(8)

    def attempt() -> None:
        gate.wait()
        try:
            with lease.held(path, "invoke release"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
        except ReleaseBusy:
            busy.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert max(most) == 1
    assert len(most) + len(busy) == 8
