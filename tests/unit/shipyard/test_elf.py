"""ELF files, fat binaries and how libraries are found, by files made here and by the Python that runs the tests."""

from __future__ import annotations

import mmap
import platform
import struct
import sys
from pathlib import Path

import pytest

from shipyard import elf, fatbin, linking
from shipyard.elf import Elf
from shipyard.fatbin import Architectures

MACHINES = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
HEADER = 64


def made(
    needed: tuple[str, ...] = (), paths: tuple[int, str] | None = None, section: bytes = b"", interpreter: str = ""
) -> bytes:
    """A 64-bit ELF file for x86-64 with one loaded segment that is the whole file."""
    texts = b"\0"

    def text(value: str) -> int:
        nonlocal texts
        texts += value.encode() + b"\0"
        return len(texts) - len(value.encode()) - 1

    tags = [(1, text(name)) for name in needed] + ([(paths[0], text(paths[1]))] if paths else [])
    inner = text(interpreter) if interpreter else 0
    names = b"\0.dynamic\0.nv_fatbin\0.shstrtab\0"
    segments_at = HEADER
    texts_at = segments_at + 3 * 56
    dynamic_at = texts_at + len(texts) + -len(texts) % 8
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in [*tags, (5, texts_at), (0, 0)])
    section_at = dynamic_at + len(dynamic)
    names_at = section_at + len(section)
    headers_at = names_at + len(names)
    end = headers_at + 4 * 64
    kinds = [
        (1, 0, end),
        (2, dynamic_at, len(dynamic)),
        (3 if interpreter else 4, texts_at + inner, len(interpreter) + 1),
    ]
    segments = b"".join(struct.pack("<IIQQQQQQ", kind, 4, at, at, at, size, size, 8) for kind, at, size in kinds)
    rows = [
        (0, 0, 0, 0),
        (1, 6, dynamic_at, len(dynamic)),
        (10, 1, section_at, len(section)),
        (21, 3, names_at, len(names)),
    ]
    headers = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0) for name, kind, at, size in rows
    )
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 0x3E, 1, 0, segments_at, headers_at, 0, 64, 56, 3, 64, 4, 3
    )
    padded = texts + b"\0" * (-len(texts) % 8)
    return head + segments + padded + dynamic + section + names + headers


def code(kind: int, architecture: int, size: int = 8) -> bytes:
    return struct.pack("<HHIQIIHHI", kind, 0x101, 64, size, 0, 0, 0, 0, architecture).ljust(64, b"\0") + b"\xff" * size


def container(*entries: bytes) -> bytes:
    inner = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(inner)) + inner


def test_what_a_file_says_of_itself() -> None:
    found = elf.read(made(("libc.so.6", "libm.so.6"), (29, "$ORIGIN:/opt/lib"), interpreter="/lib64/ld.so"))
    assert found == Elf(
        machine="linux/amd64",
        interpreter="/lib64/ld.so",
        needed=("libc.so.6", "libm.so.6"),
        soname="",
        paths=("$ORIGIN", "/opt/lib"),
        sections=found.sections if found else {},
    )
    assert set(found.sections) == {".dynamic", ".nv_fatbin", ".shstrtab"}


def test_this_python() -> None:
    with (
        Path(sys.executable).resolve().open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = elf.read(data)
    assert found is not None
    assert found.machine == MACHINES[platform.machine()]
    assert any(name.startswith("libc.so") for name in found.needed)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + b"\0" * 80])
def test_what_is_no_file_of_ours(data: bytes) -> None:
    assert elf.read(data) is None


def test_a_file_that_is_cut_off() -> None:
    with pytest.raises(ValueError, match="damaged or cut off"):
        elf.read(made(("libc.so.6",))[:150])


def test_architectures_of_several_fat_binaries() -> None:
    first, second = container(code(2, 80), code(2, 90, 12)), container(code(2, 90), code(1, 90))
    section = first + b"\0" * (-len(first) % 8) + b"\0" * 8 + second
    assert fatbin.architectures(made(section=section)) == Architectures((80, 90), (90,))


def test_no_code_for_a_gpu() -> None:
    assert fatbin.architectures(made()) == Architectures((), ())
    assert fatbin.architectures(b"text") == Architectures((), ())


@pytest.mark.parametrize("section", [b"\x01" * 32, container(code(2, 80))[:-4], container(b"\0" * 64)])
def test_a_damaged_fat_binary(section: bytes) -> None:
    with pytest.raises(ValueError, match=r"\.nv_fatbin"):
        fatbin.architectures(made(section=section))


def file(*needed: str, paths: tuple[str, ...] = (), interpreter: str = "") -> Elf:
    return Elf("linux/amd64", interpreter, needed, "", paths, {})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("usr/lib/x86_64-linux-gnu/libone.so", True),
        ("lib/x86_64-linux-gnu/libone.so", True),
        ("usr/lib/libone.so", True),
        ("opt/libone.so", False),
        ("usr/lib/aarch64-linux-gnu/libone.so", False),
    ],
)
def test_where_the_loader_looks_in_the_end(name: str, found: bool) -> None:
    lines = linking.missing({"usr/bin/x": file("libone.so")}, [name])
    assert lines == ([] if found else ["usr/bin/x needs libone.so"])


def test_paths_of_its_own_and_of_the_program_beside_it() -> None:
    files = {
        "usr/lib/own/program": file("libone.so", paths=("/usr/lib/own",), interpreter="/usr/lib/own/ld.so"),
        "usr/lib/own/libone.so": file("libtwo.so"),
        "app/module.so": file("libthree.so", "libfour.so", paths=("$ORIGIN/../libs",)),
    }
    names = ["usr/lib/own/libone.so", "usr/lib/own/libtwo.so", "usr/lib/own/ld.so", "libs/libthree.so"]
    assert linking.missing(files, names) == ["app/module.so needs libfour.so"]
    assert linking.missing(files, [*names[:2], names[3], "libs/libfour.so"]) == [
        "usr/lib/own/program needs /usr/lib/own/ld.so"
    ]


def test_the_driver_s_libraries_are_the_host_s() -> None:
    wanted = file("libcuda.so.1", "libnvidia-ml.so.1", "libcudart.so.13")
    assert linking.missing({"x.so": wanted}, []) == ["x.so needs libcudart.so.13"]


def test_cuda_libraries_that_are_there_twice() -> None:
    once = ["a/libcublas.so.13", "a/libcublasLt.so.13", "a/libcudart.so.13", "a/libcurl.so.4", "b/libcurl.so.4"]
    assert linking.twice(once) == []
    assert linking.twice([*once, "b/libcudart.so.12"]) == ["a/libcudart.so.13", "b/libcudart.so.12"]
    assert linking.twice([*once, "b/libcublas_static.a"]) == ["a/libcublas.so.13", "b/libcublas_static.a"]
