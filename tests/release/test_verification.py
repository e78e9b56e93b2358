"""`invoke verify` against a real registry: what is right is found right, by cosign too; every fault is named, all at once."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke import Context

import shipyard
import verbs.signing
from shipyard import attachments, verification
from shipyard.artifacts import Published
from shipyard.errors import RegistryFailed, SigningFailed, UnknownName, VerificationFailed
from shipyard.journal import Journal
from shipyard.registry import Registry
from tests.support import signed
from tests.support.registry_proxy import Fault, proxy
from tests.support.signed import Scene, Shelf


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def scene(shelf: Shelf, tmp_path: Path) -> Iterator[Scene]:
    with shelf.lent(tmp_path) as found:
        yield found


@pytest.mark.parametrize("what", ["", " "])
def test_nothing_is_no_name(scene: Scene, what: str) -> None:
    with pytest.raises(UnknownName, match="nothing is named"):
        shipyard.verification.verify(scene.checkout, what, scene.served.address)


def test_one_platform_s_manifest_is_no_release(scene: Scene) -> None:
    for what in (scene.new.parts[0].digest, f"{scene.served.address}/tiny@{scene.new.parts[0].digest}"):
        with pytest.raises(UnknownName, match="is the manifest of one platform; name the index"):
            scene.verify(what)


def test_images_of_different_commits_are_no_release() -> None:
    made = [
        Published(name, "prod", f"host/{name}", "", (), (), (), (), commit)
        for name, commit in (("a", "1" * 40), ("b", "2" * 40))
    ]
    (found,) = verification._of_one_commit("1.2.3", made)
    assert str(found).startswith(
        "1.2.3: mixed-release: its images are of different commits: a-prod of 111111111111; b-prod of 2222"
    )
    assert not list(verification._of_one_commit("1.2.3", made[:1]))
    assert not list(verification._of_one_commit("host/a:latest", made))


def test_a_release_is_what_it_should_be_by_every_name(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    report = scene.verify()
    assert report.findings == ()
    assert report.cosign, "cosign itself has to look at it"
    prod, cuda = report.images
    assert (prod.name, prod.target, prod.digest) == ("tiny", "prod", scene.new.digest)
    assert (prod.tags, cuda.tags) == (
        ("1.2.3", "1.2", "1", "latest"),
        ("1.2.3-cuda", "1.2-cuda", "1-cuda", "latest-cuda"),
    )
    assert [each.platform for each in prod.platforms] == ["linux/amd64", "linux/arm64"]
    assert {each.subject for each in prod.signatures} == {scene.new.digest, *(each.digest for each in scene.new.parts)}
    assert [each.kind for each in prod.attestations] == ["slsaprovenance1", "cyclonedx", "cyclonedx"]
    shipyard.verification.show(report, json=True)
    assert json.loads(capsys.readouterr().out)["images"][0]["digest"] == scene.new.digest
    names = (
        "1.2.2",
        "tiny:1.2.3",
        "tiny:latest",
        f"{scene.served.address}/tiny:1.2-cuda",
        scene.new.reference,
        scene.cuda.digest,
    )
    assert {name: scene.found(name) for name in names if name != "1.2.2"} == {name: [] for name in names[1:]}
    # Of 1.2.2 there was no cuda image yet, as this checkout declares one.
    assert scene.found("1.2.2") == [("missing-image", "1.2.2-cuda")]


def test_an_earlier_release_consists_of_what_its_git_tag_declares(scene: Scene) -> None:
    root = scene.checkout.root
    declares = root / "docker/images.toml"
    now = declares.read_text()
    declares.write_text(now.replace('"prod", "cuda", "dev"', '"prod", "dev"'))
    author = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    for words in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "-m", "1.2.2"), ("tag", "v1.2.2")):
        subprocess.run(["git", *words], cwd=root, check=True)
    declares.write_text(now)
    assert scene.found("1.2.2") == []


def test_nothing_is_written(scene: Scene) -> None:
    scene.verify()
    assert scene.served.writes() == []


def test_a_name_that_is_nowhere(scene: Scene) -> None:
    with pytest.raises(UnknownName, match=r"sha256:0{64} in none of the repositories tiny"):
        scene.verify("sha256:" + "0" * 64)
    with pytest.raises(UnknownName, match='perhaps you meant "tiny"'):
        scene.verify("tinny:1.2.3")
    assert scene.found("9.9.9") == [("missing-image", "9.9.9"), ("missing-image", "9.9.9-cuda")]


def test_a_tampered_manifest(scene: Scene) -> None:
    """Somebody with the registry's disk: it serves other bytes under the same digest."""
    for digest in (scene.new.digest, scene.cuda.parts[1].digest):
        path = scene.served.blob(digest)
        path.write_bytes(path.read_bytes().replace(b'"size": ', b'"size":  ', 1))
    found = scene.verify().findings
    assert {(each.kind, each.place.rpartition(":")[2]) for each in found} >= {
        ("tampered", "1.2.3"),
        ("tampered", "1.2.3-cuda"),
    }
    assert scene.cuda.parts[1].digest in " ".join(each.problem for each in found)


def test_another_key(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = signed.project(tmp_path / "other")
    shipyard.signing_keys.init(stranger)
    monkeypatch.setenv("SHIPYARD_PUBLIC_KEY", str(stranger.root / "cosign.pub"))
    report = scene.verify("tiny:1.2.3")
    assert {each.kind for each in report.findings} == {"foreign-signature"}
    # Index and two platforms: a signature each, a provenance, two SBOMs.
    assert len(report.findings) == 6
    assert report.images[0].signatures == report.images[0].attestations == ()
    with pytest.raises(VerificationFailed, match="foreign-signature") as failed:
        shipyard.verification.demand(report)
    assert len(str(failed.value).splitlines()) == 6


def test_no_public_key(scene: Scene) -> None:
    (scene.checkout.root / "cosign.pub").unlink()
    with pytest.raises(SigningFailed, match=r"cosign\.pub: No such file.*SHIPYARD_PUBLIC_KEY"):
        scene.verify()


def test_unsigned(scene: Scene) -> None:
    platform = scene.new.parts[1].digest
    for digest in (scene.new.digest, platform):
        rest = scene.attached(digest)
        scene.hang(digest, [each for each in rest if each not in scene.of_kind(digest, "signature")])
    found = scene.verify("tiny:1.2.3").findings
    assert [each.kind for each in found] == ["unsigned", "unsigned"]
    assert platform in found[1].problem


def test_a_removed_sbom(scene: Scene) -> None:
    platform = scene.new.parts[0].digest
    rest = scene.attached(platform)
    scene.hang(platform, [each for each in rest if each not in scene.of_kind(platform, "cyclonedx")])
    (finding,) = scene.verify().findings
    assert (finding.kind, finding.place) == ("no-sbom", f"{scene.served.address}/tiny:1.2.3")
    assert "linux/amd64" in finding.problem


def test_the_provenance_and_an_sbom_of_another_digest(scene: Scene) -> None:
    for digest, kind, other in (
        (scene.new.digest, "slsaprovenance1", scene.cuda.digest),
        (scene.new.parts[0].digest, "cyclonedx", scene.new.parts[1].digest),
    ):
        rest = [each for each in scene.attached(digest) if each not in scene.of_kind(digest, kind)]
        scene.hang(digest, rest + scene.of_kind(other, kind))
    assert scene.found() == [("wrong-provenance", "1.2.3"), ("wrong-sbom", "1.2.3")]
    assert scene.cuda.digest in scene.verify().findings[0].problem


def test_an_attachment_whose_content_was_changed(scene: Scene) -> None:
    platform = scene.new.parts[0].digest
    (descriptor,) = scene.of_kind(platform, "cyclonedx")
    manifest = shipyard.oci.parse(scene.registry.manifest("tiny", descriptor["digest"])[0])
    scene.served.blob(manifest["layers"][0]["digest"]).write_bytes(b"{}")
    (finding,) = scene.verify("tiny:1.2.3").findings
    assert finding.kind == "no-sbom"
    assert descriptor["digest"] in finding.problem


GARBAGE = (
    *(b"[" * 100_000, b"{}", b"\xff", b'{"dsseEnvelope": 5}', b"", b'{"mediaType": ["x"]}', b"null"),
    b'{"dsseEnvelope": {"payloadType": "\\u001b[2K", "payload": "%%", "signatures": [{"sig": "AA=="}]}}',
    b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": {}, "messageSignature": {}}',
)


@pytest.mark.parametrize("first", [True, False])
def test_garbage_beside_what_is_good_changes_nothing(scene: Scene, first: bool) -> None:
    """Neither for us nor for cosign."""
    for digest in (scene.new.digest, scene.new.parts[0].digest):
        good, bad = scene.attached(digest), [scene.put(digest, each) for each in GARBAGE]
        scene.hang(digest, [*bad, *good] if first else [*good, *bad])
    report = scene.verify()
    assert (report.findings, report.cosign) == ((), True)


def test_an_attestation_that_says_something_else(shelf: Shelf, scene: Scene, tmp_path: Path) -> None:
    """Signed by us, about the right digest, and yet not what it must say."""
    made = signed.artifact(tmp_path, scene.served.address, "1.3.0")
    shipyard.publishing.push(scene.registry, made)
    shipyard.signing.sign(shelf.checkout, scene.registry, made)
    amd64, arm64 = (part.digest for part in made.parts)
    signed.attest(shelf.checkout, scene.registry, made, "cyclonedx", signed.sbom(arm64, "1.3.0"), amd64)
    signed.attest(shelf.checkout, scene.registry, made, "cyclonedx", {"bomFormat": "else"}, arm64)
    signed.attest(shelf.checkout, scene.registry, made, "slsaprovenance1", signed.provenance("1.2.3", "f" * 40))
    findings = scene.verify(made.reference).findings
    problems = " ".join(each.problem for each in findings)
    assert {each.kind for each in findings} == {"wrong-sbom", "wrong-provenance"}
    for part in ("it is that of another image", "no CycloneDX 1.6", "names version 1.2.3, not 1.3.0", "f" * 40):
        assert part in problems


def test_a_tag_moved_behind_our_back(scene: Scene, tmp_path: Path) -> None:
    """To bytes that nobody signed; and the version's own tag to another release of ours."""
    evil = signed.artifact(tmp_path, scene.served.address, labels=signed.labels(title="Something else"))
    shipyard.publishing.push(scene.registry, evil)
    shipyard.publishing.move(scene.registry, evil, ["latest"])
    (finding,) = scene.verify("tiny:1.2.3").findings
    assert (finding.kind, evil.digest in finding.problem) == ("moved-alias", True)
    shipyard.verification.demand(scene.verify("tiny:1.2.3"), aliases=False)
    assert {("unsigned", "latest"), ("moved-tag", "latest")} <= set(scene.found("tiny:latest"))
    shipyard.publishing.move(scene.registry, scene.old, ["1.2.3"])
    kinds = {kind for kind, place in scene.found() if place == "1.2.3"}
    assert kinds >= {"moved-tag", "wrong-label"}


def test_the_records_of_this_checkout_tell_more(shelf: Shelf, scene: Scene) -> None:
    """What it tested, and which release it promoted last: latest leads back to an older one of ours."""
    journals = scene.checkout.state / "release"
    facts = {"digests": {"tiny-prod": scene.new.digest}}
    Journal(journals / "1.2.3.jsonl").write("test", "done", facts)
    moved = {"registry": scene.served.address, "moved": {"tiny-prod": {"1.2.3": None, "latest": scene.old.digest}}}
    Journal(journals / "1.2.3.jsonl").write("promote", "done", facts | moved)
    assert scene.found() == []
    shipyard.publishing.move(scene.registry, scene.old, ["latest"])
    (finding,) = scene.verify().findings
    assert finding.kind == "moved-alias"
    assert "which is 1.2.2; this checkout promoted 1.2.3 last" in finding.problem
    # A rollback is a promotion too.
    moved["moved"] = {"tiny-prod": {"latest": scene.new.digest}}
    Journal(journals / "1.2.2.jsonl").write("rollback", "done", moved)
    (finding,) = scene.verify().findings
    assert "latest names" in finding.problem
    assert "and 1.2.3 was promoted" in finding.problem
    signed.state(replace(shelf.checkout, version="1.2.2"), scene.registry, scene.old, "latest")
    assert scene.found() == []


@pytest.mark.parametrize("record", ["journal", "dist"])
def test_bytes_that_were_not_tested(scene: Scene, record: str) -> None:
    if record == "journal":
        facts = {"digests": {"tiny-prod": scene.old.digest}}
        Journal(scene.checkout.state / "release/1.2.3.jsonl").write("test", "done", facts)
    else:
        image = {"key": "tiny-prod", "repository": f"{scene.served.address}/tiny", "digest": scene.old.digest}
        (scene.checkout.root / "dist").mkdir()
        (scene.checkout.root / "dist/release.json").write_text(json.dumps({"version": "1.2.3", "images": [image]}))
    assert scene.found() == [("untested", "1.2.3")]


def test_a_missing_platform_and_platforms_that_disagree(shelf: Shelf, scene: Scene, tmp_path: Path) -> None:
    said = signed.labels(revision="unknown", source="https://elsewhere.example")
    half = signed.artifact(tmp_path, scene.served.address, platforms=("linux/arm64",), labels=said)
    signed.publish(shelf.checkout, scene.registry, half)
    found = scene.verify("tiny:1.2.3").findings
    assert {each.kind for each in found} == {"missing-platform", "wrong-label", "wrong-provenance", "moved-alias"}
    problems = " ".join(each.problem for each in found)
    for part in ("linux/amd64", "elsewhere.example", "'unknown', which is no commit"):
        assert part in problems


def test_a_layer_that_is_gone(scene: Scene) -> None:
    layer = scene.cuda.parts[0].layers[1]
    links = scene.served.storage / "docker/registry/v2/repositories/tiny/_layers/sha256"
    shutil.rmtree(links / layer.removeprefix("sha256:"))
    (finding,) = scene.verify().findings
    assert (finding.kind, layer in finding.problem) == ("missing-blob", True)


def test_a_registry_that_is_down_forges_nothing(scene: Scene) -> None:
    scene.served.kill()
    with pytest.raises(RegistryFailed):
        scene.verify()


def test_an_attachment_that_cannot_be_read_is_told_only_by_a_registry_that_answers(scene: Scene) -> None:
    """One that goes away in the middle must not look like one where nothing is signed."""
    with proxy(scene.served.address) as faulty:
        client = Registry(faulty.address, patience=0.1)
        assert [each.problem for each in attachments.find(client, "tiny", scene.new.digest)] == ["", ""]
        faulty.faults.append(Fault("GET", "/blobs/", "status", 1000))
        for each in attachments.find(client, "tiny", scene.new.digest):
            assert "status 503 NO not now" in each.problem
        faulty.faults.append(Fault("GET", "/v2/$", "status", 1000))
        with pytest.raises(RegistryFailed, match="asked for /v2/"):
            attachments.find(client, "tiny", scene.new.digest)


def test_the_verb_ends_with_its_own_exit_code(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs.signing, "ROOT", scene.checkout.root)

    def verify(what: str, **options: Any) -> int:
        try:
            verbs.signing.verify(Context(), what, registry=scene.served.address, **options)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert verify("1.2.3", json=True) == 0
    assert json.loads(capsys.readouterr().out)["what"] == "1.2.3"
    platform = scene.new.parts[0].digest
    scene.hang(platform, scene.of_kind(platform, "signature"))
    assert verify("1.2.3") == 18
    assert "no-sbom" in capsys.readouterr().err
    assert verify("sha256:" + "1" * 64) == 4
