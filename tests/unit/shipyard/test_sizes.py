"""An image's size: remembered by digest, its files read as a stream of chunks of any length."""

from __future__ import annotations

import io
import tarfile
from typing import IO, cast

from shipyard import machine, sizes
from shipyard.sizes import Inventory, Stream


def test_reads_do_not_care_where_chunks_end() -> None:
    stream = Stream([b"abc", b"", b"d", b"efghij"])
    assert [stream.read(2), stream.read(3), stream.read(4), stream.read(4), stream.read(4)] == [
        b"ab",
        b"cde",
        b"fghi",
        b"j",
        b"",
    ]


def test_a_read_takes_no_more_chunks_than_it_needs() -> None:
    chunks = iter([b"abcd", b"efgh", b"ijkl"])
    stream = Stream(chunks)
    assert (stream.read(3), stream.read(1)) == (b"abc", b"d")
    assert next(chunks) == b"efgh"
    assert (stream.read(0), stream.read(9)) == (b"", b"ijkl")


def test_an_empty_stream() -> None:
    assert Stream([]).read(10) == b""


def test_a_tar_in_odd_chunks_is_read_to_its_end() -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, size in (("bin/a", 5000), ("b", 1)):
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(b"x" * size))
    data = whole.getvalue()
    chunks = [data[start : start + 777] for start in range(0, len(data), 777)]
    with tarfile.open(fileobj=cast("IO[bytes]", Stream(chunks)), mode="r|") as archive:
        assert [(member.name, member.size) for member in archive] == [("bin/a", 5000), ("b", 1)]


def test_only_a_whole_number_counts_as_remembered() -> None:
    machine.write("sizes.json", {"sha256:a": 123, "sha256:b": "123"})
    assert [sizes.known(f"sha256:{digest}") for digest in "abc"] == [123, None, None]


def test_the_listing_of_the_biggest_files() -> None:
    inventory = Inventory(1, (("usr/bin/python3.13", 6_912_345), ("etc/passwd", 120)))
    assert sizes.listing(inventory) == "        6.9 MB  /usr/bin/python3.13\n        0.0 MB  /etc/passwd"
