"""Attempts that ask the kernel for more than a service needs. Done means that the kernel did it, or would have.

What could do harm is asked for in a way that is refused for its arguments, once the privilege was found. Numbers are
those of asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64); constants those of the headers in linux/.
"""

import ctypes
import errno
import os
import platform
import socket
import stat
import struct
import tempfile
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    # name: (x86_64, aarch64)
    "ptrace": (101, 117),
    "capget": (125, 90),
    "prctl": (157, 167),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "add_key": (248, 217),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "process_vm_readv": (310, 270),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
NAMESPACES = {"mount": 0x20000, "user": 0x10000000, "pid": 0x20000000, "network": 0x40000000, "cgroup": 0x2000000}
SEIZE = 0x4206
VERSION_3 = 0x20080522
NO_NEW_PRIVILEGES, SECCOMP, IN_BOUNDS = 39, 21, 23
LAST_CAPABILITY = 40
MAP_ARRAY, SOFTWARE_EVENT, KEY_OF_PROCESS, LOG_SIZE, BUFFER = 2, 1, -2, 10, 64


def call(name, *arguments):
    number = NUMBERS[name][platform.machine() != "x86_64"]
    # Whole registers: what is passed as an int leaves their upper halves to chance.
    return checked(LIBC.syscall(number, *(ctypes.c_long(each) if type(each) is int else each for each in arguments)))


def checked(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def past_the_check(expected, name, *arguments):
    """Make a call whose arguments are wrong: that error, and not EPERM, shows that the privilege was there."""
    try:
        return call(name, *arguments)
    except OSError as error:
        if error.errno != expected:
            raise
        return errno.errorcode[expected]


def mount(place):
    checked(LIBC.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=4k"))
    checked(LIBC.umount2(os.fsencode(place), 2))


def unshare(kind):
    checked(LIBC.unshare(NAMESPACES[kind]))


def enter(pid):
    """Join the network namespace of another process."""
    with Path(f"/proc/{pid}/ns/net").open() as place:
        checked(LIBC.setns(place.fileno(), 0))


def change_root():
    os.chroot("/usr")


def device():
    """Make a device node (of the harmless /dev/null)."""
    path = f"{tempfile.mkdtemp()}/device"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    Path(path).unlink()


def raw_socket(family):
    kinds = {"internet": (socket.AF_INET, socket.IPPROTO_ICMP), "packet": (socket.AF_PACKET, socket.htons(3))}
    socket.socket(kinds[family][0], socket.SOCK_RAW, kinds[family][1]).close()


def trace(pid):
    """Attach to another process without stopping it; it is let go when this process ends."""
    call("ptrace", SEIZE, int(pid), None, None)


def peek(pid):
    """Read another process's memory by one call; at an address that nobody has, so that only the privilege counts."""
    into = ctypes.create_string_buffer(1)
    here, there = (struct.pack("=QQ", address, 1) for address in (ctypes.addressof(into), 1))
    return past_the_check(errno.EFAULT, "process_vm_readv", int(pid), here, 1, there, 1, 0)


def open_memory(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))


def send_signal(pid):
    """Whether another process can be killed; signal 0 is checked alike and does nothing."""
    os.kill(int(pid), 0)


def key_ring():
    return call("add_key", b"user", b"of-an-intruder", b"1", 1, KEY_OF_PROCESS)


def bpf():
    attributes = struct.pack("=4I", MAP_ARRAY, 4, 4, 1) + bytes(104)
    return call("bpf", 0, attributes, len(attributes))


def performance_events():
    attributes = struct.pack("=IIQ", SOFTWARE_EVENT, 112, 0) + bytes(96)
    return call("perf_event_open", attributes, 0, -1, -1, 0)


def io_uring():
    return call("io_uring_setup", 4, ctypes.create_string_buffer(120))


def page_faults():
    return call("userfaultfd", 0)


def kernel_log():
    return call("syslog", LOG_SIZE, None, 0)


def reboot():
    return past_the_check(errno.EINVAL, "reboot", 0, 0, 0, None)


def file_by_handle():
    """Open a file by its number, past all folders: how containers were left in 2014."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", BUFFER, 0) + bytes(BUFFER))
    call("name_to_handle_at", -100, b"/etc/hostname", handle, ctypes.byref(ctypes.c_int()), 0)
    place = os.open("/etc/hostname", os.O_RDONLY)
    return call("open_by_handle_at", place, handle, os.O_RDONLY)


def capabilities():
    """The capabilities that this process has, and those that a program could give it."""
    data = ctypes.create_string_buffer(24)
    call("capget", ctypes.create_string_buffer(struct.pack("=Ii", VERSION_3, 0)), data)
    bounds = [number for number in range(LAST_CAPABILITY + 1) if call("prctl", IN_BOUNDS, number, 0, 0, 0)]
    if not any(data.raw) and not bounds:
        raise PermissionError("there are none")
    return data.raw.hex(), bounds


def new_privileges():
    if call("prctl", NO_NEW_PRIVILEGES, 0, 0, 0, 0):
        raise PermissionError("no program gives any")


def unfiltered():
    if call("prctl", SECCOMP, 0, 0, 0, 0):
        raise PermissionError("a filter judges system calls")


def terminal():
    """A pair of terminals, of which the host has so many."""
    return os.openpty()
