from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from claude_proxy import entries

THREAD = "/proc/self/task/7/comm"


@pytest.mark.parametrize(
    "path", [THREAD, "/proc/self/maps", "/proc/thread-self/status", "/proc/7/stat", "/proc/7/comm"]
)
def test_entries_of_a_process(path: str) -> None:
    assert entries.ENTRY.fullmatch(path)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/self/cmdline",
        "/proc/self/task/../maps",
        "/proc/self/../1/maps",
        "/proc//self/maps",
        "/proc/self/maps/",
        "/proc/self/maps\n",
        "proc/self/maps",
        "/proc/7/fd/3",
        "/proc/sys/kernel/stat",
        "/proc/\N{ARABIC-INDIC DIGIT SEVEN}/stat",
    ],
)
def test_what_is_none_goes_on_to_the_kernel(path: str) -> None:
    assert not entries.ENTRY.fullmatch(path)


def test_the_process_of_a_thread() -> None:
    assert entries._process(os.getpid()) == str(os.getpid())


def test_its_name_may_be_no_text() -> None:
    name = Path("/proc/thread-self/comm")
    before = name.read_bytes()
    name.write_bytes(b"\xff\xfe")
    try:
        assert entries._process(threading.get_native_id()) == str(os.getpid())
    finally:
        name.write_bytes(before)
