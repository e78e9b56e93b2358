from __future__ import annotations

import os
import platform
import socket
import struct

import pytest

from claude_proxy import seccomp
from claude_proxy.sandbox import Sandbox

MACHINES = tuple(seccomp.ARCHITECTURES)


def decided(machine: str, number: int, *arguments: int, architecture: int | None = None, **more: bool) -> int:
    """Run the filter as the kernel does: instructions of linux/bpf_common.h over a struct seccomp_data."""
    data = struct.pack("=iIQ6Q", number, architecture or seccomp.ARCHITECTURES[machine], 0, *(*arguments, *[0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine, **more)))
    loaded = place = 0
    while True:
        operation, yes, no, value = code[place]
        place += 1
        if operation == seccomp.RETURN:
            return int(value)
        if operation == seccomp.LOAD:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif operation == seccomp.AND:
            loaded &= value
        else:
            tests = {
                seccomp.EQUAL: loaded == value,
                seccomp.AT_LEAST: loaded >= value,
                seccomp.ANY_OF: bool(loaded & value),
            }
            place += yes if tests[operation] else no


def call(machine: str, name: str, *arguments: int, **more: bool) -> int:
    return decided(machine, seccomp.number(name, machine), *arguments, **more)


@pytest.mark.parametrize("machine", MACHINES)
def test_some_calls_are_refused_some_asked_about_and_all_others_go_on(machine: str) -> None:
    for name in ("memfd_create", "inotify_add_watch", "shmget", "mq_open", "io_uring_setup", "setxattr", "keyctl"):
        assert call(machine, name) == seccomp.REFUSE
    assert call(machine, "fchmodat") == call(machine, "fchmodat2") == seccomp.NOTIFY
    assert {decided(machine, each) for each in seccomp.numbers(seccomp.FORKS, machine)} == {seccomp.NOTIFY}
    listed = {seccomp.number(name, machine) for name in seccomp.CALLS if name not in seccomp.OPENS}
    assert {decided(machine, number) for number in set(range(500)) - listed} == {seccomp.ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_may_limit_itself_only(machine: str) -> None:
    for name in seccomp.OWN_ONLY:
        assert call(machine, name, 0) == seccomp.ALLOW
        assert call(machine, name, 7) == seccomp.REFUSE
    # The kernel takes the lower half, too.
    assert call(machine, "prlimit64", (1 << 32) | 7) == seccomp.REFUSE
    assert call(machine, "setpriority", 0, 0, 5) == seccomp.ALLOW
    for which, who in ((0, 7), (1, 0), (2, 0)):
        assert call(machine, "setpriority", which, who, 5) == seccomp.REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_tcp_is_spoken_in_the_way_that_landlock_hears(machine: str) -> None:
    assert call(machine, "socket", 2, 1, 0) == call(machine, "socket", 1, 1, 0) == seccomp.ALLOW
    assert call(machine, "socket", 2, 1, seccomp.MPTCP) == call(machine, "socket", seccomp.AF_SMC) == seccomp.REFUSE
    for name, place in seccomp.FLAGS.items():
        assert call(machine, name, *[0] * place, 0x4000) == seccomp.ALLOW  # MSG_NOSIGNAL
        assert call(machine, name, *[0] * place, 0x4000 | seccomp.FASTOPEN) == seccomp.REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_who_needs_no_datagrams_has_none_by_ip(machine: str) -> None:
    def made(*arguments: int) -> int:
        return call(machine, "socket", *arguments, datagrams=False)

    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    for family in (socket.AF_INET, socket.AF_INET6):
        assert {made(family, socket.SOCK_STREAM | more) for more in (0, flags)} == {seccomp.ALLOW}
        assert {made(family, kind | more) for kind in (2, 3, 4, 5, 6, 10) for more in (0, flags)} == {seccomp.REFUSE}
        assert made(family, socket.SOCK_STREAM, seccomp.MPTCP) == seccomp.REFUSE
    for family in (socket.AF_UNIX, socket.AF_NETLINK):
        assert {made(family, kind) for kind in (1, 2, 3, 5)} == {seccomp.ALLOW}
    assert made(seccomp.AF_SMC, 1) == seccomp.REFUSE
    assert call(machine, "socket", socket.AF_INET, socket.SOCK_DGRAM) == seccomp.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_request_that_may_use_a_gpu_is_asked_about_some_files_and_may_make_memory_without_one(machine: str) -> None:
    def openat(flags: int) -> int:
        return call(machine, "openat", 0, 0, flags, gpu=True)

    assert call(machine, "memfd_create", gpu=True) == seccomp.ALLOW
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert openat(flags) == openat(flags | seccomp.LARGE_FILE) == seccomp.NOTIFY
        assert openat(flags | os.O_CLOEXEC) == openat(flags | os.O_CREAT) == openat(flags | os.O_PATH) == seccomp.ALLOW
    assert openat(os.O_WRONLY) == seccomp.ALLOW
    rest = set(seccomp.CALLS) - {*seccomp.FOR_GPU, *seccomp.OPENS}
    assert {name for name in rest if call(machine, name, gpu=True) != call(machine, name)} == set()


def test_the_older_call_has_its_flags_elsewhere() -> None:
    assert call("x86_64", "open", 0, os.O_RDONLY, 0, gpu=True) == seccomp.NOTIFY
    assert call("x86_64", "open", 0, os.O_CLOEXEC, 0, gpu=True) == seccomp.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_the_second_tables_of_calls_are_closed(machine: str) -> None:
    i386, arm = 0x40000003, 0x40000028
    getpid = 39
    for architecture in (i386, arm):
        assert decided(machine, getpid, architecture=architecture) == seccomp.REFUSE
    assert decided("x86_64", seccomp.X32 + getpid) == seccomp.REFUSE


def test_another_architecture_has_no_sandbox() -> None:
    sandbox = Sandbox("best-effort", version=7, machine="riscv64")
    assert sandbox.version == 0
    assert "riscv64" in sandbox.lack
    assert "x86_64, aarch64" in sandbox.lack
    assert Sandbox("required", version=7, machine=platform.machine()).lack == ""
