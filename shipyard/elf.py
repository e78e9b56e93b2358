"""What an ELF file says of itself: its architecture, the libraries it needs and where it looks for them, its sections.

Source: System V ABI, "Object Files", and its x86-64 and AArch64 supplements. Only 64-bit little-endian files are read: those
of the platforms that are built. Pure functions over bytes, or over a file that is mapped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap

MAGIC = b"\x7fELF"
#: e_machine: EM_X86_64 and EM_AARCH64, as platforms call them.
MACHINES = {0x3E: "linux/amd64", 0xB7: "linux/arm64"}

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3  # p_type
_NO_BITS = 8  # sh_type of a section that takes no bytes of the file
#: d_tag of what is read of the dynamic section.
_NEEDED, _STRINGS, _SONAME, _RPATH, _RUNPATH = 1, 5, 14, 15, 29


@dataclass(frozen=True)
class Elf:
    """One file. ``sections`` have their place in the file as offset and length; ``paths`` are RUNPATH, or RPATH without one."""

    machine: str
    interpreter: str
    needed: tuple[str, ...]
    soname: str
    paths: tuple[str, ...]
    sections: dict[str, tuple[int, int]]


def read(data: bytes | mmap) -> Elf | None:
    """The file's own description; None for what is no ELF file of 64 bits. Raises ValueError for one that is cut off."""
    if data[:4] != MAGIC or data[4:6] != b"\x02\x01":
        return None
    try:
        return _read(data)
    except (struct.error, IndexError, UnicodeDecodeError) as problem:
        msg = f"an ELF file that is damaged or cut off: {problem}"
        raise ValueError(msg) from problem


def _read(data: bytes | mmap) -> Elf:
    head = _HEADER.unpack_from(data)
    machine, segments_at, sections_at = head[2], head[5], head[6]
    size, count = head[9], head[10]
    segments = [_SEGMENT.unpack_from(data, segments_at + index * size) for index in range(count)]
    dynamic = [pair for each in segments if each[0] == _DYNAMIC for pair in _pairs(data, each[2], each[5])]
    strings = next((_place(segments, value) for tag, value in dynamic if tag == _STRINGS), 0)

    def named(wanted: int) -> list[str]:
        return [_text(data, strings + value) for tag, value in dynamic if tag == wanted]

    paths = named(_RUNPATH) or named(_RPATH)
    return Elf(
        machine=MACHINES.get(machine, f"machine {machine}"),
        interpreter=next((_text(data, each[2]) for each in segments if each[0] == _INTERPRETER), ""),
        needed=tuple(named(_NEEDED)),
        soname=next(iter(named(_SONAME)), ""),
        paths=tuple(path for each in paths for path in each.split(":") if path),
        sections=_sections(data, sections_at, head[11], head[12], head[13]),
    )


def _pairs(data: bytes | mmap, offset: int, size: int) -> list[tuple[int, int]]:
    """Tag and value of each entry of a dynamic section, up to its end mark."""
    found = []
    for at in range(offset, offset + size, 16):
        tag, value = struct.unpack_from("<qQ", data, at)
        if tag == 0:
            break
        found.append((tag, value))
    return found


def _place(segments: list[tuple[int, ...]], address: int) -> int:
    """Where in the file an address lies that is loaded from it."""
    for kind, _, offset, start, _, size, *_ in segments:
        if kind == _LOAD and start <= address < start + size:
            return offset + address - start
    msg = f"the address {address:#x} is in no part that is loaded"
    raise IndexError(msg)


def _sections(data: bytes | mmap, at: int, size: int, count: int, names: int) -> dict[str, tuple[int, int]]:
    if not at or not count:  # stripped of its section headers
        return {}
    found = [_SECTION.unpack_from(data, at + index * size) for index in range(count)]
    texts = found[names][4]
    return {_text(data, texts + each[0]): (each[4], 0 if each[1] == _NO_BITS else each[5]) for each in found[1:]}


def _text(data: bytes | mmap, at: int) -> str:
    end = data.find(b"\0", at)
    if end < 0:
        msg = f"no text at {at}"
        raise IndexError(msg)
    return data[at:end].decode()
