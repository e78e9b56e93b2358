"""Bills of materials of the real images, both platforms, against what another program finds in the same layers."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest

import shipyard
from shipyard.artifacts import Artifact, Commit, Part
from shipyard.commands import bake
from shipyard.layouts import Layout
from tests.support.stack import ROOT

#: Debian packages alone, with Python distributions, and with the CLI too.
IMAGES = ("egress", "api", "claude-proxy")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, ...]:
    """The images as a release writes them: an index of both platforms in a layout folder each."""
    project, engine = shipyard.config.load(ROOT), shipyard.engine.find()
    folder, base = tmp_path_factory.mktemp("layouts"), shipyard.bases.ensure(engine, project.base)
    jobs = [
        shipyard.plans.job(project, image, "prod", image.platforms, base)
        for image in (project.images[name] for name in IMAGES)
    ]
    secrets = {"ca": bundle} if (bundle := shipyard.host.ca_bundle()) else {}
    document = json.loads(bake.document(project, jobs, base, revision=head(), epoch=1767225600, secrets=secrets))
    for key, target in document["target"].items():
        del target["tags"]
        target["output"] = [f"type=oci,dest={folder / key},tar=false"]
    environment = bake.environment(engine.environment())
    asked, text = bake.argv(engine.docker), json.dumps(document)
    built = subprocess.run(asked, input=text, text=True, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    return tuple(artifact(job.image.name, job.image.repository, folder / job.key, project.version) for job in jobs)


def head() -> str:
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def artifact(name: str, repository: str, folder: Path, version: str) -> Artifact:
    layout = Layout(folder)
    return Artifact(name, "prod", repository, version, layout.digest, folder, layout.parts())


@pytest.fixture(scope="module")
def documents(artifacts: tuple[Artifact, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    commit = Commit(head(), 1767225600, "main", True)
    written: dict[Path, str] = shipyard.sbom.write(ROOT, tmp_path_factory.mktemp("sboms") / "first", artifacts, commit)
    return written


def every(artifacts: tuple[Artifact, ...], documents: dict[Path, str]) -> Iterator[tuple[Artifact, Part, str]]:
    pairs = [(artifact, part) for artifact in artifacts for part in artifact.parts]
    for (found, part), text in zip(pairs, documents.values(), strict=True):
        yield found, part, text


def unpacked(image: Artifact, part: Part, target: Path) -> Path:
    """The package databases of an image, unpacked by tar; our images have nothing that one layer hides of another."""
    target.mkdir(parents=True)
    patterns = ("var/lib/dpkg/status", "*.dist-info/METADATA", "usr/local/bin/*")
    for layer in part.layers:
        blob = image.layout / "blobs" / layer.replace(":", "/")
        names = subprocess.run(["tar", "-tzf", blob], check=True, capture_output=True, text=True).stdout.split("\n")
        assert not [name for name in names if Path(name).name.startswith(".wh.")]
        asked = ["tar", "-xzf", str(blob), "-C", str(target), "--wildcards", *patterns]
        subprocess.run(asked, capture_output=True, check=False)  # a layer without any is an error to tar
    return target


def components(text: str, kind: str) -> dict[str, dict[str, Any]]:
    found = [each for each in json.loads(text)["components"] if each.get("purl", "").startswith(f"pkg:{kind}/")]
    assert len({each["name"] for each in found}) == len(found)
    return {each["name"]: each for each in found}


def test_every_package_is_listed_and_nothing_is_invented(
    artifacts: tuple[Artifact, ...], documents: dict[Path, str], tmp_path: Path
) -> None:
    for image, part, text in every(artifacts, documents):
        root = unpacked(image, part, tmp_path / part.digest[7:])
        status = (root / "var/lib/dpkg/status").read_text()
        packages = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", status, re.MULTILINE))
        assert len(packages) == status.count("Package: ") > 10
        assert {name: each["version"] for name, each in components(text, "deb").items()} == packages
        metadata = [HeaderParser().parsestr(path.read_text()) for path in root.glob("app/lib/*.dist-info/METADATA")]
        found = {each["name"]: each["version"] for each in components(text, "pypi").values()}
        assert found == {re.sub(r"[-_.]+", "-", each["Name"]).lower(): each["Version"] for each in metadata}
        assert bool(metadata) == (image.name != "egress")
        programs = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob("usr/local/bin/*")}
        nested = [file for each in components(text, "npm").values() for file in each.get("components", [])]
        assert {Path(each["name"]).name: each["hashes"][0]["content"] for each in nested} == programs
        assert bool(programs) == (image.name == "claude-proxy")
        others = [
            each
            for each in json.loads(text)["components"]
            if not re.match(r"pkg:(deb|pypi|npm)/", each.get("purl", ""))
        ]
        assert sorted(each["type"] for each in others) == ["application", "operating-system"]


def test_both_platforms_each_by_its_own_architecture(
    artifacts: tuple[Artifact, ...], documents: dict[Path, str]
) -> None:
    for image in artifacts:
        assert {part.platform for part in image.parts} == {"linux/amd64", "linux/arm64"}
    for _, part, text in every(artifacts, documents):
        architecture = part.platform.removeprefix("linux/")
        named = {each["purl"].partition("arch=")[2].partition("&")[0] for each in components(text, "deb").values()}
        assert architecture in named
        assert named <= {architecture, "all"}
        cpu = {"amd64": "x64", "arm64": "arm64"}[architecture]
        assert all(name.endswith(f"-{cpu}") for name in components(text, "npm"))


def test_licences_of_at_least_95_of_100_packages_and_the_others_by_name(
    artifacts: tuple[Artifact, ...], documents: dict[Path, str]
) -> None:
    for image, part, text in every(artifacts, documents):
        packages = [each for kind in ("deb", "pypi", "npm") for each in components(text, kind).values()]
        assert all(each["licenses"] for each in packages)
        unknown = [each["name"] for each in packages if each["licenses"] == [{"license": {"name": "NOASSERTION"}}]]
        assert len(unknown) <= 0.05 * len(packages), f"{image.key} {part.platform}: {unknown}"


def test_each_fits_the_schema(documents: dict[Path, str]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert [str(problem) for text in documents.values() if (problem := validator.validate_str(text))] == []


def test_again_gives_the_same_bytes(
    artifacts: tuple[Artifact, ...], documents: dict[Path, str], tmp_path: Path
) -> None:
    commit = Commit(head(), 1767225600, "main", True)
    again = shipyard.sbom.write(ROOT, tmp_path / "again", artifacts, commit)  # nothing is remembered of the first run
    assert list(again.values()) == list(documents.values())
    assert [path.name for path in again] == [path.name for path in documents]
