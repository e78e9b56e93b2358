"""Bills of materials of images made by hand: all that is installed, nothing else, and the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest

from shipyard import bill, components, contents, licenses, sbom, source
from shipyard.artifacts import Artifact, Commit, Component, Part
from shipyard.components import Found
from shipyard.errors import BuildFailed, UnknownName
from shipyard.layouts import Layout
from shipyard.models import Project

COMMIT = Commit("a" * 40, 1767225600, "main", True)
LABELS = {
    "org.opencontainers.image.version": "1.2.3",
    "org.opencontainers.image.revision": COMMIT.revision,
    "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
    "org.opencontainers.image.source": "https://example.org/gateway",
    "org.opencontainers.image.licenses": "Apache-2.0",
    "org.opencontainers.image.title": "The API",
}
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: somebody
License: GPL-2+

Files: debian/*
Copyright: somebody else
License: Expat

License: GPL-2+
 See /usr/share/common-licenses/GPL-2
"""
STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.41-12
Architecture: amd64
Source: glibc (2.41-11)
Depends: libgcc-s1, gone
Provides: libc-virtual

Package: libgcc-s1
Status: install ok installed
Version: 14.2
Architecture: amd64
Source: gcc-14
Depends: gcc-14-base (= 14.2), libc6 | libc-virtual

Package: gcc-14-base
Status: install ok installed
Version: 14.2
Architecture: amd64
Source: gcc-14

Package: removed
Status: deinstall ok config-files
Version: 1
Architecture: amd64

Package: python3.13-minimal
Status: install ok installed
Version: 3.13.5-2+deb13u5
Architecture: amd64
Pre-Depends: libc-virtual
"""
FILES = {
    "var/lib/dpkg/status": STATUS,
    "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\n',
    "usr/share/doc/libc6/copyright": DEP5,
    "usr/share/doc/gcc-14-base/copyright": "in prose: /usr/share/common-licenses/GPL-3.",
    "app/lib/Some_Thing-1.0.dist-info/METADATA": (
        "Name: Some_Thing\nVersion: 1.0\nLicense-Expression: MIT OR Apache-2.0\n"
        'Requires-Dist: other>1; python_version >= "3.13"\nRequires-Dist: other2; extra == "x"\n'
        "Requires-Dist: gone\n"
    ),
    "app/lib/other-2.dist-info/METADATA": "Name: other\nVersion: 2\nLicense: BSD-3-Clause\n",
    "app/lib/other2-3.dist-info/METADATA": "Name: other2\nVersion: 3\n",
    "usr/lib/python3/dist-packages/debians-1.dist-info/METADATA": "Name: debians\nVersion: 1\n",
    "usr/local/bin/claude": "a program",
}
NPM = json.dumps(
    {
        "packages": {
            "": {"name": "root"},
            "node_modules/@scope/cli-x64": {
                "version": "2.1.0",
                "cpu": ["x64"],
                "integrity": "sha512-" + "A" * 86 + "==",
                "license": "SEE LICENSE IN LICENSE.md",
            },
            "node_modules/@scope/cli-arm64": {"version": "2.1.0", "cpu": ["arm64"]},
        }
    }
)
LOCK = f"amd64 libc6 2.41-12 {'1' * 64}\narm64 libc6 2.41-12 {'2' * 64}\namd64 gcc-14-base 14.1 {'3' * 64}\n"


def layer(entries: Mapping[str, str | None], links: Mapping[str, str] | None = None) -> bytes:
    """A gzipped layer; None is a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in entries.items():
            member = tarfile.TarInfo(name)
            if text is None:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
                continue
            data = text.encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return gzip.compress(stream.getvalue(), mtime=0)


def layout(folder: Path, layers: Sequence[bytes], labels: Mapping[str, str] = LABELS) -> Layout:
    """An OCI layout with one index of one platform."""
    (folder / "blobs/sha256").mkdir(parents=True)

    def kept(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (folder / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{name}", "size": len(data), **more}

    config = {"os": "linux", "architecture": "amd64", "config": {"Labels": dict(labels)}}
    blobs = [kept(each, "layer.v1.tar+gzip") for each in layers]
    described = {"config": kept(json.dumps(config).encode(), "config.v1+json"), "layers": blobs}
    platform = {"os": "linux", "architecture": "amd64"}
    manifest = kept(json.dumps(described).encode(), "manifest.v1+json", platform=platform)
    index = kept(json.dumps({"manifests": [manifest]}).encode(), "index.v1+json")
    (folder / "index.json").write_text(json.dumps({"manifests": [index]}))
    return Layout(folder)


def artifact(found: Layout) -> Artifact:
    return Artifact("api", "prod", "127.0.0.1:5000/llm-call-api", "1.2.3", found.digest, found.path, found.parts())


@pytest.fixture
def image(tmp_path: Path) -> Artifact:
    return artifact(layout(tmp_path / "api-prod", [layer(FILES)]))


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"docker/api/package-lock.json": NPM, "docker/api/debian.lock": LOCK}
    monkeypatch.setattr(source, "text", lambda root, revision, path: files.get(path))


def made(image: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sbom.make(Path(), image, image.parts[0], COMMIT))
    return found


def by_name(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in document["components"]}


def needs(document: Mapping[str, Any], name: str) -> set[str]:
    refs = {each["bom-ref"]: each["name"] for each in document["components"]}
    edges = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    ref = next(ref for ref, each in refs.items() if each == name)
    return {refs[each] for each in edges[ref]}


def test_it_lists_all_that_is_installed_and_nothing_else(image: Artifact) -> None:
    assert sorted(by_name(made(image))) == [
        *("cli-x64", "debian", "gcc-14-base", "libc6", "libgcc-s1", "llm-call-api-code", "other", "other2"),
        *("python3.13-minimal", "some-thing"),
    ]


def test_it_fits_the_schema(image: Artifact) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = sbom.make(Path(), image, image.parts[0], COMMIT)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"type": "library"', '"type": "nothing"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_the_same_image_gives_the_same_bytes_wherever_it_is_published(image: Artifact) -> None:
    part = image.parts[0]
    first = sbom.make(Path(), image, part, COMMIT)
    elsewhere = replace(image, repository="registry.example.org/team/llm-call-api")
    assert sbom.make(Path(), image, part, COMMIT) == first == sbom.make(Path(), elsewhere, part, COMMIT)
    document = json.loads(first)
    assert document["serialNumber"] == sbom.serial(part.digest)
    assert document["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
    assert document["metadata"]["component"]["version"] == "1.2.3"
    assert part.digest in document["metadata"]["component"]["purl"]
    assert sbom.serial("sha256:" + "0" * 64) != document["serialNumber"]


def test_debian_packages(image: Artifact) -> None:
    document = made(image)
    libc = by_name(document)["libc6"]
    assert libc["purl"] == "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc%402.41-11"
    assert libc["licenses"] == [{"license": {"id": "GPL-2.0-or-later"}}, {"license": {"id": "MIT"}}]
    assert libc["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    assert "hashes" not in by_name(document)["gcc-14-base"], "the lock names another version"
    assert needs(document, "libgcc-s1") == {"gcc-14-base", "libc6"}
    assert needs(document, "python3.13-minimal") == {"libc6"}, "by what libc6 provides"


def test_a_package_without_a_copyright_file_takes_that_of_its_source(image: Artifact) -> None:
    found = by_name(made(image))
    assert found["libgcc-s1"]["licenses"] == [{"license": {"name": "GPL-3"}}]
    assert found["libgcc-s1"]["properties"][0]["value"] == "usr/share/doc/gcc-14-base/copyright"
    assert found["python3.13-minimal"]["licenses"] == [{"license": {"name": "NOASSERTION"}}]


def test_python_distributions(image: Artifact) -> None:
    document = made(image)
    assert by_name(document)["some-thing"]["purl"] == "pkg:pypi/some-thing@1.0"
    assert by_name(document)["some-thing"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert needs(document, "some-thing") == {"other"}


def test_the_npm_package_of_the_platform_with_its_program(image: Artifact) -> None:
    found = by_name(made(image))["cli-x64"]
    assert found["purl"] == "pkg:npm/%40scope/cli-x64@2.1.0"
    assert found["hashes"] == [{"alg": "SHA-512", "content": "00" * 64}]
    digest = hashlib.sha256(b"a program").hexdigest()
    assert found["components"][0]["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_a_program_that_no_package_brought_is_listed_as_a_file() -> None:
    found = components.npm("", "amd64", {"usr/local/bin/tool": "5" * 64})
    assert [(each.component.name, each.component.type.value) for each in found] == [("/usr/local/bin/tool", "file")]


def test_our_own_code_names_its_commit(image: Artifact) -> None:
    ours = by_name(made(image))["llm-call-api-code"]
    assert (ours["type"], ours["version"]) == ("application", "1.2.3")
    assert ours["pedigree"]["commits"] == [{"uid": COMMIT.revision}]
    assert ours["licenses"] == [{"license": {"id": "Apache-2.0"}}]


def test_every_component_is_reached_from_the_image(image: Artifact) -> None:
    document = made(image)
    edges = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    waiting, reached = [document["metadata"]["component"]["bom-ref"]], set[str]()
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += edges[ref]
    assert reached >= {each["bom-ref"] for each in document["components"]}


def test_of_packages_that_need_each_other_one_is_a_top() -> None:
    def found(ref: str, *needs: str) -> Found:
        return Found(components.files({ref: "0" * 64})[0].component, frozenset(f"file:/{each}" for each in needs))

    ring = [found("c", "b"), found("b", "c"), found("a", "d"), found("d")]
    assert list(bill.tops(ring)) == ["file:/a", "file:/b"]
    assert list(bill.tops([])) == []


def test_upper_layers_hide_and_replace(tmp_path: Path) -> None:
    gone = {
        "app/lib/.wh.other-2.dist-info": "",
        "usr/share/doc/.wh..wh..opq": "",
        "usr/share/doc/new/copyright": DEP5,
        "./usr/local/bin/claude": "another program",
        "usr/lib/os-release/": None,
    }
    found = layout(tmp_path / "api-prod", [layer(FILES), layer(gone, {"usr/local/bin/same": "usr/local/bin/claude"})])
    inside = contents.read(found, found.parts()[0])
    assert "app/lib/other-2.dist-info/METADATA" not in inside.files
    assert "app/lib/other2-3.dist-info/METADATA" in inside.files
    assert [each for each in inside.files if "copyright" in each] == ["usr/share/doc/new/copyright"]
    digest = hashlib.sha256(b"another program").hexdigest()
    assert inside.local == {"usr/local/bin/claude": digest, "usr/local/bin/same": digest}


def test_a_file_in_place_of_a_folder_hides_what_was_in_it(tmp_path: Path) -> None:
    found = layout(tmp_path / "api-prod", [layer(FILES), layer({"app": "now a file"})])
    assert contents.read(found, found.parts()[0]).metadata == {}


def test_packages_of_another_suite_depend_on_each_other_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of a llama-server that brings its own C library, locked in another image's file."""
    aside = "Package: {}\nStatus: install ok installed\nVersion: {}\nArchitecture: amd64\n{}\n"
    status = aside.format("llama", "0.7", "Depends: libc6") + "\n" + aside.format("libc6", "2.43-7", "")
    found = layout(tmp_path / "api-local", [layer(FILES), layer({"var/lib/dpkg/status.d/llama": status})])
    files = {
        "docker/api/Dockerfile": "RUN --mount=type=bind,source=docker/local-llm/debian.lock,target=/x true\n",
        "docker/api/debian.lock": LOCK,
        "docker/local-llm/debian.lock": f"amd64 libc6 2.43-7 {'4' * 64}\n",
    }
    monkeypatch.setattr(source, "text", lambda root, revision, path: files.get(path))
    document = made(artifact(found))
    edges = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert edges["pkg:deb/debian/llama@0.7?arch=amd64"] == ["pkg:deb/debian/libc6@2.43-7?arch=amd64"]
    hashes = {each["bom-ref"]: each.get("hashes") for each in document["components"]}
    assert hashes["pkg:deb/debian/libc6@2.43-7?arch=amd64"] == [{"alg": "SHA-256", "content": "4" * 64}]
    assert [each for each in hashes if "/libc6@" in each] == [
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc%402.41-11",
        "pkg:deb/debian/libc6@2.43-7?arch=amd64",
    ]


def test_a_layer_is_read_once_and_again_when_what_is_remembered_is_damaged(tmp_path: Path) -> None:
    gone = {"app/lib/.wh.other-2.dist-info": "", "usr/share/doc/.wh..wh..opq": ""}
    found, kept = layout(tmp_path / "api-prod", [layer(FILES), layer(gone)]), tmp_path / "layers"
    part = found.parts()[0]
    fresh = contents.read(found, part)
    assert contents.read(found, part, kept) == fresh
    remembered = sorted(kept.iterdir())
    assert [each.name for each in remembered] == sorted(f"2-{each[7:]}.json" for each in part.layers)
    for each in part.layers:
        found.blob(each).rename(tmp_path / each)
    assert contents.read(found, part, kept) == fresh, "without its layers"
    remembered[0].write_text('{"files": ')
    with pytest.raises(BuildFailed, match="No such file"):
        contents.read(found, part, kept)
    for each in part.layers:
        (tmp_path / each).rename(found.blob(each))
    assert contents.read(found, part, kept) == fresh


@pytest.mark.parametrize("damage", [b"no layer at all", layer(FILES)[:400], b"\x28\xb5\x2f\xfd rest"])
def test_a_damaged_layer(tmp_path: Path, damage: bytes) -> None:
    found = layout(tmp_path / "api-prod", [damage])
    with pytest.raises(BuildFailed, match=hashlib.sha256(damage).hexdigest()):
        contents.read(found, found.parts()[0])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (DEP5, ("GPL-2.0-or-later", "MIT")),
        ("Python Software\n Foundation License version 2; /usr/share/common-licenses/GPL-2", ("GPL-2", "PSF-2.0")),
        ("This is under the GNU Lesser General\nPublic License.", ("LGPL",)),
        ("", ()),
    ],
)
def test_licences_of_debian(text: str, names: tuple[str, ...]) -> None:
    assert licenses.debian(text) == names


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("Expat", "MIT"),
        ("GPL-2 or MIT", "GPL-2 or MIT"),
    ],
)
def test_debians_short_names(name: str, spdx: str) -> None:
    assert licenses.spdx(name) == spdx


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ("License-Expression: MIT AND ISC\nLicense: other", ("MIT AND ISC",)),
        ("License: MIT\nClassifier: License :: OSI Approved :: BSD License", ("MIT",)),
        (
            "License: a licence\nClassifier: License :: OSI Approved :: MIT License\n"
            "Classifier: License :: OSI Approved :: Apache Software License",
            ("Apache-2.0", "MIT"),
        ),
        ("License: Apache 2.0\nClassifier: License :: OSI Approved", ("Apache-2.0",)),
        ("License: UNKNOWN", ()),
        ("License: " + "a whole text " * 20, ()),
        ("", ()),
    ],
)
def test_licences_of_python(metadata: str, names: tuple[str, ...]) -> None:
    assert licenses.python(HeaderParser().parsestr(metadata), lambda text: text == "MIT") == names


def test_written_in_the_order_of_the_artifacts_each_whole(tmp_path: Path, image: Artifact) -> None:
    written = sbom.write(tmp_path, tmp_path / "release", [image], COMMIT)
    assert [path.name for path in written] == ["api-prod-amd64.cdx.json"]
    assert all(path.read_text() == text for path, text in written.items())
    assert [path.name for path in (tmp_path / "release/sbom").iterdir()] == ["api-prod-amd64.cdx.json"]


def test_paths_name_the_architecture(image: Artifact) -> None:
    part = Part("linux/arm/v7", "sha256:" + "0" * 64, 1, ())
    assert sbom.path(Path("r"), image, part) == Path("r/sbom/api-prod-arm-v7.cdx.json")


def test_the_summary_lists_a_component_once(image: Artifact) -> None:
    text = sbom.make(Path(), image, image.parts[0], COMMIT)
    rows = sbom.summary([("api-prod", text), ("api-cuda", text)])
    assert Component("some-thing", "1.0", "pypi", ("MIT OR Apache-2.0",), ("api-cuda", "api-prod")) in rows
    assert {(each.kind, each.name) for each in rows if each.kind not in ("deb", "pypi")} == {
        ("application", "llm-call-api-code"),
        ("npm", "@scope/cli-x64"),
        ("operating-system", "debian"),
    }
    assert len(rows) == 10


def test_the_verb_counts_what_was_built(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project.state / "release" / project.version
    layout(folder / "api-prod", [layer(FILES)])
    counts = sbom.renew(project, [])
    assert [(each.image, each.debian, each.python, each.npm) for each in counts] == [("api-prod", 4, 3, 1)]
    assert counts[0].unlicensed == ("other2", "python3.13-minimal")
    assert COMMIT.revision in Path(counts[0].file).read_text()
    sbom.show(counts)
    seen = capsys.readouterr()
    assert seen.out.splitlines()[1].split()[:6] == ["api-prod", "linux/amd64", "4", "3", "1", "2"]
    assert "other2: nothing in the image tells its licence" in seen.err
    sbom.show(counts, json=True)
    assert json.loads(capsys.readouterr().out)[0]["npm"] == 1


def test_the_verb_without_a_release_build(project: Project) -> None:
    with pytest.raises(BuildFailed, match=r"no image of version 1\.2\.3 was built for release"):
        sbom.renew(project, [])
    with pytest.raises(UnknownName, match='image "ap": not declared'):
        sbom.renew(project, ["ap"])


def test_the_verb_refuses_an_image_without_a_time(project: Project) -> None:
    layout(project.state / "release" / project.version / "api-prod", [layer(FILES)], {})
    with pytest.raises(BuildFailed, match="created is no time"):
        sbom.renew(project, ["api"])
