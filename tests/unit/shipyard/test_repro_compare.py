"""What differs between two builds, in words: layer, path and kind."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shipyard import oci, repro
from shipyard.artifacts import Artifact
from shipyard.layouts import Layout

Members = list[tuple[str, bytes, dict[str, Any]]]
PLAIN: Members = [("etc/a", b"a", {"mode": 0o644}), ("etc/b", b"b", {"mode": 0o644, "uid": 7})]


def layer(members: Members, level: int = 9) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content, options in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in options.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=level, mtime=0)


def image(folder: Path, layers: list[bytes], user: str = "1") -> Artifact:
    """One platform's image as a layout."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def keep(data: bytes) -> dict[str, Any]:
        digest = oci.digest(data)
        (blobs / digest.partition(":")[2]).write_bytes(data)
        return {"digest": digest, "size": len(data), "mediaType": "application/octet-stream"}

    steps = [{"created_by": "ENV A=1", "empty_layer": True}, *({"created_by": f"COPY {n} / # buildkit"} for n in "xy")]
    config = {"os": "linux", "architecture": "arm64", "config": {"User": user}, "history": steps, "rootfs": {"n": 1}}
    manifest = {"config": keep(json.dumps(config).encode()), "layers": [keep(each) for each in layers]}
    described = {**keep(json.dumps(manifest).encode()), "platform": {"os": "linux", "architecture": "arm64"}}
    index = keep(json.dumps({"mediaType": oci.INDEX, "manifests": [described]}).encode())
    (folder / "index.json").write_text(json.dumps({"manifests": [{**index, "mediaType": oci.INDEX}]}))
    layout = Layout(folder)
    return Artifact("one", "prod", "small-one", "1.2.3", layout.digest, folder, layout.parts())


def differences(tmp_path: Path, one: list[bytes], two: list[bytes], **options: str) -> list[str]:
    first, second = image(tmp_path / "1", one), image(tmp_path / "2", two, **options)
    return [str(each) for each in repro.compare(first, second)]


def test_equal_builds_differ_in_nothing(tmp_path: Path) -> None:
    assert differences(tmp_path, [layer(PLAIN)], [layer(PLAIN)]) == []


@pytest.mark.parametrize(
    ("member", "kinds"),
    {
        "content": (("etc/b", b"c", {"mode": 0o644, "uid": 7}), ["content"]),
        "mode": (("etc/b", b"b", {"mode": 0o600, "uid": 7}), ["mode"]),
        "owner": (("etc/b", b"b", {"mode": 0o644, "uid": 8}), ["owner"]),
        "time": (("etc/b", b"b", {"mode": 0o644, "uid": 7, "mtime": 5}), ["time"]),
        "type and target": (
            ("etc/b", b"", {"mode": 0o644, "uid": 7, "type": tarfile.SYMTYPE, "linkname": "a"}),
            ["type", "content", "link"],
        ),
    }.values(),
    ids=lambda value: "",
)
def test_a_file_that_differs(tmp_path: Path, member: tuple[str, bytes, dict[str, Any]], kinds: list[str]) -> None:
    found = differences(tmp_path, [layer(PLAIN), layer(PLAIN)], [layer(PLAIN), layer([PLAIN[0], member])])
    assert found == [f"one-prod linux/arm64, layer 2 (COPY y /): /etc/b: {kind}" for kind in kinds]


def test_missing_and_added_files_and_layers(tmp_path: Path) -> None:
    other: Members = [PLAIN[0], ("etc/c", b"c", {"mode": 0o644})]
    assert differences(tmp_path, [layer(PLAIN), layer(PLAIN)], [layer(other)]) == [
        "one-prod linux/arm64, layer 1 (COPY x /): /etc/b: missing",
        "one-prod linux/arm64, layer 1 (COPY x /): /etc/c: added",
        "one-prod linux/arm64, layer 2 (COPY y /): missing",
    ]


def test_the_same_files_packed_in_another_way(tmp_path: Path) -> None:
    big: Members = [("etc/a", b"abc" * 1000, {})]
    assert differences(tmp_path, [layer(big)], [layer(big, level=0)]) == [
        "one-prod linux/arm64, layer 1 (COPY x /): archive"
    ]


def test_settings(tmp_path: Path) -> None:
    assert differences(tmp_path, [layer(PLAIN)], [layer(PLAIN)], user="2") == [
        "one-prod linux/arm64, config: config.User: content"
    ]


def test_an_image_that_was_not_built_again(tmp_path: Path) -> None:
    found = repro.compare(image(tmp_path / "1", [layer(PLAIN)]), None)
    assert [str(each) for each in found] == ["one-prod linux/arm64, the whole image: missing"]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    many = [repro.Difference("one-prod", "linux/arm64", "layer 1", f"/{n}", "time") for n in range(25)]
    lines = str(repro.failed(many)).splitlines()
    assert (len(lines), lines[-2]) == (23, "and 5 more")
