"""Which GPUs a program has code for: the fat binaries that nvcc embeds, as ``cuobjdump --list-elf --list-ptx`` lists them.

The layout is NVIDIA's and not written down anywhere; fatbinary_section.h of its compiler names the section. What is read here
was compared with binaries that were compiled for known architectures. Pure functions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap

from shipyard import elf

#: FATBIN_DATA_SECTION_NAME of fatbinary_section.h.
SECTION = ".nv_fatbin"
_MAGIC = 0xBA55ED50
#: magic, version, size of this header, bytes that follow it
_CONTAINER = struct.Struct("<IHHQ")
#: kind, flags, size of this header, bytes of code that follow it; the architecture is 28 bytes from the beginning.
_ENTRY = struct.Struct("<HHIQ")
_ARCHITECTURE = 28
_PTX, _ELF = 1, 2


@dataclass(frozen=True)
class Architectures:
    """Compute capabilities, 90 for 9.0: ``real`` of machine code, ``virtual`` of PTX, which the driver compiles for newer GPUs."""

    real: tuple[int, ...]
    virtual: tuple[int, ...]


def architectures(data: bytes | mmap) -> Architectures:
    """What an ELF file's fat binaries are for; empty for a file without one. Raises ValueError where one is damaged."""
    found = elf.read(data)
    offset, size = found.sections.get(SECTION, (0, 0)) if found else (0, 0)
    entries = set(_entries(memoryview(data)[offset : offset + size]))
    real, virtual = (tuple(sorted(arch for each, arch in entries if each == kind)) for kind in (_ELF, _PTX))
    return Architectures(real, virtual)


def _entries(section: memoryview) -> list[tuple[int, int]]:
    """Kind and architecture of everything in the containers of a section, which lie side by side, each at a multiple of 8."""
    found, at = [], 0
    while at + _CONTAINER.size <= len(section):
        magic, _, header, size = _CONTAINER.unpack_from(section, at)
        if magic == 0:  # what the linker put between two of them
            at += 8
            continue
        if magic != _MAGIC or at + header + size > len(section):
            msg = f"no fat binary at {at} of {SECTION}"
            raise ValueError(msg)
        inner, end = at + header, at + header + size
        while inner + _ENTRY.size <= end:
            kind, _, head, code = _ENTRY.unpack_from(section, inner)
            if not head:
                msg = f"an entry without a size at {inner} of {SECTION}"
                raise ValueError(msg)
            found.append((kind, struct.unpack_from("<I", section, inner + _ARCHITECTURE)[0]))
            inner += head + code
        at = end + -end % 8
    return found
