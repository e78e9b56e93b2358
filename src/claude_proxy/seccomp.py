"""A system call filter for what Landlock has no rule for; the kernel's header of each value is named beside it.

Other processes of this user could be limited, slowed or put last, folders watched and their modes changed, memory left
behind for the next request, and TCP spoken past Landlock's rule: all by calls that are refused here with EPERM. Whoever
wants another process or thread has to wait for the keeper's word, see `bounds`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of linux/audit.h. A machine that is not named here has no sandbox."""
SECCOMP = {"x86_64": 317, "aarch64": 277}
CALLS = {
    # name: (x86_64, aarch64; -1: has none), of asm/unistd_64.h and asm-generic/unistd.h
    "chmod": (90, -1),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    # An access control list changes the mode, too.
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "setxattrat": (463, 463),
    "file_setattr": (469, 469),
    # Watching a folder needs no right that Landlock knows; it tells the names of other requests' folders.
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    # What these make outlives its maker, and every process of this user finds it.
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Memory that no figure of a process shows.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # It makes other calls, past this filter.
    "io_uring_setup": (425, 425),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, -1),
    "vfork": (58, -1),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "socket": (41, 198),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "open": (2, -1),
    "openat": (257, 56),
}
CHANGES = ("chmod", "fchmodat", "fchmodat2")
"""Calls that the keeper makes instead, inside the folder of the request."""
FORKS = ("clone", "clone3", "fork", "vfork")
"""Calls that the keeper allows as long as the request is within its bound."""
OPENS = {"open": 0, "openat": 1}
"""Which argument holds the path; its flags are the next. Only a request that may use a GPU is asked about them, and only
about flags as the C library has them for its own reading and for names of threads: those that programs set otherwise,
to create files or to keep them from children, go by."""
ASKED = (*CHANGES, *FORKS)
OWN_ONLY = ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
"""Calls whose first argument is a process; 0 is the one that calls."""
FLAGS = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument holds the MSG_* flags."""
FOR_GPU = ("memfd_create",)
"""Calls that the driver's library cannot do without, so that a request that may use a GPU may make them; its bound on
memory counts the files that its processes have open."""
LARGE_FILE = 0o100000
"""O_LARGEFILE of asm-generic/fcntl.h, which says nothing on machines of 64 bits."""
FASTOPEN, MPTCP, AF_SMC = 0x20000000, 262, 43
"""Ways to connect by TCP of which Landlock's hook hears nothing; linux/socket.h and linux/in.h."""
AF_INET, AF_INET6, STREAM, TYPES = 2, 10, 1, 0xF
"""Families and types of sockets, the latter without their flags; linux/socket.h and linux/net.h."""
X32 = 0x40000000
"""The bit in the numbers of x86_64's second table of calls; asm/unistd.h."""

SET_FILTER, NEW_LISTENER, WAIT_KILLABLE = 1, 8, 32
"""Of linux/seccomp.h. With the last one only a deadly signal disturbs a call that the keeper has taken (Linux 5.19)."""
ALLOW, REFUSE, NOTIFY = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x7FC00000
"""SECCOMP_RET_* of linux/seccomp.h."""
LOAD, EQUAL, AT_LEAST, ANY_OF, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
"""Instructions of linux/bpf_common.h; conditions skip so many instructions if true, so many if not."""
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data. Of an argument the lower half is looked at: each of these is an int."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def numbers(names: Iterable[str], machine: str) -> frozenset[int]:
    """Return the numbers of these calls."""
    return frozenset(number(name, machine) for name in names) - {-1}


def knows(machine: str) -> bool:
    """Whether there is a filter for this architecture, as uname(2) calls it."""
    return machine in ARCHITECTURES


def number(name: str, machine: str) -> int:
    """Return the number of a call of CALLS, -1 if that architecture has none."""
    return CALLS[name][list(ARCHITECTURES).index(machine)]


def program(machine: str, gpu: bool = False, datagrams: bool = True) -> bytes:
    """Return the filter for this architecture, for a request that may use a `gpu`, or send `datagrams` by IP.

    Calls of the architecture's 32-bit tables and of x32 are all refused.
    """
    code = [_op(LOAD, ARCHITECTURE), _op(EQUAL, ARCHITECTURES[machine], 1, 0), _op(RETURN, REFUSE), _op(LOAD, NUMBER)]
    if machine == "x86_64":
        code += [_op(AT_LEAST, X32, 0, 1), _op(RETURN, REFUSE)]
    for name in CALLS:
        if number(name, machine) >= 0 and name not in (FOR_GPU if gpu else OPENS):
            block = _streams_only() if name == "socket" and not datagrams else _rule(name)
            code += [_op(EQUAL, number(name, machine), 0, len(block)), *block]
    return b"".join([*code, _op(RETURN, ALLOW)])


def restrict(gpu: bool = False, datagrams: bool = True) -> int:
    """Put this process and all that it starts behind the filter, for good; return its listener. Raises OSError.

    The listener is a file descriptor: whoever reads it answers the calls of ASKED, and of OPENS where it is for a `gpu`,
    see `notices`.
    """
    machine = platform.machine()
    content = program(machine, gpu, datagrams)
    buffer = ctypes.create_string_buffer(content, len(content))
    described = _Program(len(content) // 8, ctypes.addressof(buffer))
    for flags in (NEW_LISTENER | WAIT_KILLABLE, NEW_LISTENER):
        listener = int(_libc.syscall(SECCOMP[machine], SET_FILTER, flags, ctypes.byref(described)))
        if listener >= 0:
            return listener
    error = ctypes.get_errno()
    raise OSError(error, f"seccomp: {os.strerror(error)}")


def _rule(name: str) -> list[bytes]:
    """Return what is done with a call of that name."""
    refuse, allow = _op(RETURN, REFUSE), _op(RETURN, ALLOW)
    if name in ASKED:
        return [_op(RETURN, NOTIFY)]
    if name in OPENS:
        flags = [_argument(OPENS[name] + 1), _op(AND, ~LARGE_FILE & 0xFFFFFFFF)]
        return [*flags, _op(EQUAL, os.O_RDONLY, 2, 0), _op(EQUAL, os.O_RDWR, 1, 0), allow, _op(RETURN, NOTIFY)]
    if name in OWN_ONLY:
        return [_argument(0), _op(EQUAL, 0, 1, 0), refuse, allow]
    if name == "setpriority":
        # Of this process only: a `who` of 0 may also mean every process of this user.
        return [_argument(0), _op(EQUAL, 0, 0, 2), _argument(1), _op(EQUAL, 0, 1, 0), refuse, allow]
    if name == "socket":
        return [_argument(0), _op(EQUAL, AF_SMC, 2, 0), _argument(2), _op(EQUAL, MPTCP, 0, 1), refuse, allow]
    if name in FLAGS:
        return [_argument(FLAGS[name]), _op(ANY_OF, FASTOPEN, 0, 1), refuse, allow]
    return [refuse]


def _streams_only() -> list[bytes]:
    """Return what is done with a socket of who needs no datagrams: there is one account of their memory for the whole host."""
    return [
        *(_argument(0), _op(EQUAL, AF_SMC, 7, 0), _op(EQUAL, AF_INET, 1, 0), _op(EQUAL, AF_INET6, 0, 3)),
        *(_argument(1), _op(AND, TYPES), _op(EQUAL, STREAM, 0, 2)),
        *(_argument(2), _op(EQUAL, MPTCP, 0, 1), _op(RETURN, REFUSE), _op(RETURN, ALLOW)),
    ]


def _argument(place: int) -> bytes:
    return _op(LOAD, ARGUMENTS + 8 * place)


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
