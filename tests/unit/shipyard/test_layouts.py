"""An image layout as the builder writes it, whole and damaged."""

import json
from pathlib import Path

import pytest

from shipyard import oci
from shipyard.errors import BuildFailed
from shipyard.layouts import Layout
from tests.support import registries


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return registries.layout(tmp_path / "layout")


def test_an_index_of_two_platforms(layout: Layout) -> None:
    assert layout.media_type == oci.INDEX
    assert oci.digest(layout.raw(layout.digest)) == layout.digest
    parts = layout.parts()
    assert [part.platform for part in parts] == ["linux/amd64", "linux/arm64"]
    assert parts[0].layers[0] == parts[1].layers[0] != parts[0].layers[1]
    for part in parts:
        config, *layers = layout.blobs(part)
        assert tuple(each.digest for each in layers) == part.layers
        assert part.size == config.size + sum(each.size for each in layers)
        assert part.size == sum(layout.blob(each.digest).stat().st_size for each in (config, *layers))
        assert oci.platform(layout.document(config.digest)) == part.platform
    assert layout.present()
    assert layout.check() == []


def test_a_single_platform_without_an_index(tmp_path: Path) -> None:
    layout = registries.layout(tmp_path / "one", platforms=("linux/arm64",), single=True)
    assert layout.media_type == oci.MANIFEST
    (part,) = layout.parts()
    assert (part.platform, part.digest) == ("linux/arm64", layout.digest)
    assert layout.check() == []


def test_the_same_content_is_the_same_digest(tmp_path: Path, layout: Layout) -> None:
    assert registries.layout(tmp_path / "again").digest == layout.digest
    assert registries.layout(tmp_path / "other", text=b"changed").digest != layout.digest


def test_what_buildx_attests_is_pushed_but_is_no_platform(layout: Layout) -> None:
    index = layout.document(layout.digest)
    attested = {**index["manifests"][1], "platform": {"os": "unknown", "architecture": "unknown"}}
    raw = json.dumps({**index, "manifests": [index["manifests"][0], attested]}).encode()
    layout.path.joinpath("blobs", oci.digest(raw).replace(":", "/")).write_bytes(raw)
    outer = {"manifests": [{"mediaType": oci.INDEX, "digest": oci.digest(raw), "size": len(raw)}]}
    (layout.path / "index.json").write_text(json.dumps(outer))
    changed = Layout(layout.path)
    assert len(changed.manifests) == 2
    assert [part.platform for part in changed.parts()] == ["linux/amd64"]


def test_every_kind_of_damage_is_named(layout: Layout) -> None:
    first, second = layout.parts()
    missing, longer, other = first.layers[1], second.layers[1], first.layers[0]
    layout.blob(missing).unlink()
    layout.blob(longer).write_bytes(layout.blob(longer).read_bytes() + b"x")
    data = bytearray(layout.blob(other).read_bytes())
    data[-1] ^= 1
    layout.blob(other).write_bytes(data)
    fresh = Layout(layout.path)
    assert not fresh.present()
    found = sorted(line.partition(": ")[2].split(" ")[0] for line in fresh.check())
    assert found == ["No", "has", "holds"]


def test_a_flipped_bit_is_only_seen_by_the_check(layout: Layout) -> None:
    path = layout.blob(layout.parts()[0].layers[1])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert layout.present()
    assert layout.check() == [f"{path}: holds {oci.digest(bytes(data))}"]


def test_a_changed_manifest_is_not_read(layout: Layout) -> None:
    path = layout.blob(layout.digest)
    path.write_bytes(path.read_bytes().replace(b"amd64", b"AMD64"))
    fresh = Layout(layout.path)
    with pytest.raises(BuildFailed, match="holds other bytes; remove the folder and build again"):
        fresh.parts()
    assert not fresh.present()
    assert len(fresh.check()) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"manifests": []}', '{"manifests": [{"digest": "../x", "size": 1}]}']
)
def test_a_folder_that_is_no_layout(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    layout = Layout(tmp_path)
    with pytest.raises(BuildFailed, match=r"is no complete OCI image layout: index\.json"):
        layout.digest  # noqa: B018
    assert not layout.present()
    assert len(layout.check()) == 1


def test_an_empty_folder_and_a_path_that_is_no_digest(tmp_path: Path, layout: Layout) -> None:
    assert not Layout(tmp_path / "none").present()
    with pytest.raises(BuildFailed, match=r"'sha256:\.\./x' is no SHA-256 digest"):
        layout.blob("sha256:../x")
