"""`invoke release` from VERSION to public images: once, again, the next version, an older one, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import shipyard
from shipyard import owned, publishing, world
from shipyard.artifacts import Artifact
from shipyard.engine import api
from shipyard.errors import RegistryFailed, VerificationFailed
from shipyard.registry import Registry
from tests.support import registries
from tests.support.clones import IMAGES, Clone, Watcher


@pytest.fixture
def clone(tmp_path: Path, registry: registries.Served) -> Iterator[Clone]:
    found = Clone(tmp_path / "clone", registry.address)
    with Watcher(registry.address) as watcher:
        yield found
    assert watcher.looks > 3
    assert watcher.unsigned == []


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content, but for Python's own caches."""
    paths = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def puts(registry: registries.Served) -> int:
    """Blobs and manifests that were written; an upload that is begun and given up is none."""
    return len([method for method, _, _ in registry.writes() if method in ("PUT", "PATCH")])


def named(clone: Clone, tag: str) -> set[str]:
    """The versions whose own tag has the digest that a tag names, over all images."""
    public = clone.public()
    return {
        name.partition(":")[2]
        for name, digest in public.items()
        if digest == public.get(f"{name.partition(':')[0]}:{tag}") and name.count(".") == 2
    }


def test_a_release_and_the_same_again(clone: Clone, registry: registries.Served) -> None:
    said = clone.release()
    assert [line.split()[1] for line in said.splitlines() if "/11 " in line] == [f"{n}/11" for n in range(1, 12)]
    document = clone.document()
    assert (document["version"], document["commit"], document["verified"]) == (
        "1.2.3",
        clone.git("rev-parse", "HEAD"),
        True,
    )
    assert clone.git("cat-file", "-t", "v1.2.3") == "tag"
    engine = shipyard.engine.find()
    tags = [tag for each in api.get(engine.host, "/images/json") for tag in each.get("RepoTags") or ()]
    # Of this clone's own names: others on the engine have names with other marks.
    assert [tag for tag in tags if tag.endswith(f"-{owned.mark(clone.root)}")] == []
    assert set(clone.public()) == {
        f"llm-call-test-{name}:{tag}" for name in IMAGES for tag in ("1.2.3", "1.2", "1", "latest")
    }
    for image in document["images"]:
        assert {each["platform"] for each in image["platforms"]} == {"linux/amd64", "linux/arm64"}
        assert image["tags"] == ["1.2.3", "1.2", "1", "latest"]
        assert (len(image["signatures"]), len(image["attestations"])) == (3, 3)
        assert clone.public()[f"{image['repository'].partition('/')[2]}:latest"] == image["digest"]
    assert [step["name"] for step in document["steps"]] == list(world.TITLES)
    assert set(clone.attached().values()) == {1}
    assert "<title>" in (clone.root / "dist/release.html").read_text()

    before, writes = files(clone.root), registry.writes()
    again = clone.release()
    assert registry.writes() == writes
    assert files(clone.root) == before
    assert "building" not in again
    assert len([line for line in again.splitlines() if line.startswith("  - ")]) == 10
    assert "building" not in clone.release("--skip-repro", "too late")
    assert (registry.writes(), files(clone.root)) == (writes, before)


def test_versions_follow_one_another_and_back(clone: Clone, registry: registries.Served) -> None:
    clone.release("--skip-repro", "tested elsewhere")
    assert clone.document()["notes"][0].endswith("bytes: tested elsewhere")
    first = clone.git("rev-parse", "HEAD")

    clone.write("docker/tiny/content", "tiny, with more\n")
    clone.write("changes/more.feature.md", "Something more.\n")
    clone.commit("More")
    clone.release("--bump", "minor", "--skip-repro", "tested elsewhere")
    head = clone.git("rev-parse", "HEAD")
    assert (clone.version, clone.git("log", "-1", "--format=%s"), clone.git("rev-parse", "v1.3.0^{commit}")) == (
        "1.3.0",
        "Release 1.3.0",
        head,
    )
    assert not list((clone.root / "changes").glob("*.md"))
    assert "Something more." in (clone.root / "CHANGELOG.md").read_text()
    assert clone.git("status", "--porcelain") == ""
    assert (named(clone, "latest"), named(clone, "1"), named(clone, "1.2")) == ({"1.3.0"}, {"1.3.0"}, {"1.2.3"})

    # The same words again mean the same release, not the next one.
    writes = registry.writes()
    clone.release("--bump", "minor", "--skip-repro", "tested elsewhere")
    assert (clone.git("rev-parse", "HEAD"), registry.writes()) == (head, writes)

    # A patch of the older line takes only what is its own.
    clone.git("checkout", "--quiet", "-b", "older", first)
    clone.write("changes/fix.bugfix.md", "A fix.\n")
    clone.commit("A fix")
    clone.release("--bump", "patch", "--skip-repro", "tested elsewhere")
    assert (clone.version, named(clone, "1.2"), named(clone, "1"), named(clone, "latest")) == (
        "1.2.4",
        {"1.2.4"},
        {"1.3.0"},
        {"1.3.0"},
    )

    # Back to the older one, and running the newer release again does not undo that; promoting it does.
    clone.invoke("promote", "--version", "1.2.4")
    assert (named(clone, "latest"), named(clone, "1")) == ({"1.2.4"}, {"1.2.4"})
    clone.git("checkout", "--quiet", "main")
    before = puts(registry)
    said = clone.release("--skip-repro", "tested elsewhere")
    assert "`invoke promote --version 1.3.0` moves it here" in said
    assert (named(clone, "latest"), puts(registry)) == ({"1.2.4"}, before)
    clone.invoke("promote", "--version", "1.3.0")
    assert (named(clone, "latest"), named(clone, "1"), named(clone, "1.2")) == ({"1.3.0"}, {"1.3.0"}, {"1.2.4"})


def test_another_checkout_does_not_undo_a_rollback(clone: Clone, tmp_path: Path) -> None:
    clone.release("--skip-repro", "not the point here")
    clone.write("changes/more.feature.md", "Something more.\n")
    clone.commit("More")
    clone.release("--bump", "minor", "--skip-repro", "not the point here")
    clone.invoke("promote", "--version", "1.2.3")
    # It has the commit, and neither the journal nor the git tag.
    other = clone.twin(tmp_path / "other", clone.registry)
    other.git("tag", "--delete", "v1.2.3", "v1.3.0")
    said = other.release("--skip-repro", "not the point here")
    assert "`invoke promote --version 1.3.0` moves it here" in said
    assert (named(clone, "latest"), named(clone, "1"), named(clone, "1.3")) == ({"1.2.3"}, {"1.2.3"}, {"1.3.0"})


def test_a_promotion_that_broke_off_is_finished(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    move = publishing.move

    def broken(client: Registry, artifact: Artifact, tags: Iterable[str]) -> list[publishing.Moved]:
        if (wanted := list(tags)) == ["1.2"]:
            msg = "gone"
            raise RegistryFailed(msg)
        return move(client, artifact, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "move", broken)
        with pytest.raises(RegistryFailed, match="gone"):
            clone.here(skip_repro="not the point here")
    assert {name.partition(":")[2] for name in clone.public()} == {"1.2.3"}
    clone.here(skip_repro="not the point here")
    assert named(clone, "latest") == {"1.2.3"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_checkouts_claim_a_version_at_once(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    other = clone.twin(tmp_path / "other", clone.registry)
    other.write("docker/tiny/content", "tiny, of another commit\n")
    other.commit("Another")
    other.invoke("sign", "--skip-repro", "not the point here")
    theirs = other.lines("sign", "done")[-1].facts["digests"]["tiny-prod"]
    claim, registry = publishing.claim, Registry(clone.registry)

    def late(client: Registry, artifact: Artifact) -> list[publishing.Moved]:
        made = claim(client, artifact) if moment == "after" else []
        if artifact.name == "tiny":
            found = registry.manifest("llm-call-test-tiny", theirs)
            assert found
            registry.push_manifest("llm-call-test-tiny", "1.2.3", *found[:2])
        return made or claim(client, artifact)

    monkeypatch.setattr(publishing, "claim", late)
    with pytest.raises(VerificationFailed, match=f"1.2.3 names {theirs}, and .* is not moved"):
        clone.here(skip_repro="not the point here")
    assert (clone.git("tag"), "latest" in str(clone.public())) == ("", False)
    assert clone.public()["llm-call-test-tiny:1.2.3"] == theirs
    assert not (clone.root / "dist").exists()


def test_a_moved_tag_is_told_before_anything_is_done(clone: Clone) -> None:
    clone.invoke("sign", "--skip-repro", "not the point here")
    registry, made = Registry(clone.registry), clone.lines("sign", "done")[-1].facts["digests"]
    found = registry.manifest("llm-call-test-small", made["small-prod"])
    assert found
    part = json.loads(found[0])["manifests"][0]["digest"]
    lower = registry.manifest("llm-call-test-small", part)
    assert lower
    registry.push_manifest("llm-call-test-small", "1.2.3", *lower[:2])
    assert f"1.2.3 names {part}, and {made['small-prod']} was built" in clone.invoke("preflight", status=19)
    registry.push_manifest("llm-call-test-small", "1.2.3", *found[:2])
    clone.release("--skip-repro", "not the point here")


def test_a_broken_image_pushes_nothing(clone: Clone, registry: registries.Served) -> None:
    clone.write("docker/small/content", "broken\n")
    clone.commit("Break it")
    said = clone.release(status=7)
    assert "test_content[small] - " in said
    assert "nothing was pushed" in said
    assert "the same command goes on from here" in said
    assert clone.public() == {}
    assert {(method, status) for method, _, status in registry.writes()} == {("POST", 202), ("DELETE", 204)}
    assert not (clone.root / "dist").exists()
    # Nothing was public: the same version is released once the image is mended.
    clone.write("docker/small/content", "small\n")
    clone.commit("Mend it")
    clone.release("--skip-repro", "not the point here")
    assert named(clone, "latest") == {"1.2.3"}


def test_the_first_steps_as_verbs(clone: Clone, registry: registries.Served) -> None:
    clone.write("untracked", "")
    (clone.root / "secrets/signing/cosign.key").rename(clone.root / "secrets/signing/kept")
    before = clone.git("rev-parse", "HEAD")
    said = clone.invoke("preflight", status=19)
    assert "the tree is not clean: untracked" in said
    assert "there is no signing key" in said
    (clone.root / "untracked").unlink()
    (clone.root / "secrets/signing/kept").rename(clone.root / "secrets/signing/cosign.key")
    clone.invoke("preflight")
    assert (clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain"), puts(registry)) == (before, "", 0)

    clone.invoke("bump", "minor")
    assert (clone.version, clone.git("rev-parse", "HEAD^")) == ("1.3.0", before)
    assert not clone.lines("build", "begun")
    clone.invoke("test")
    assert clone.lines("test", "done")
    assert puts(registry) == 0
    clone.release("--bump", "minor", "--skip-repro", "not the point here")
    assert (clone.version, named(clone, "latest")) == ("1.3.0", {"1.3.0"})
    assert (len(clone.lines("build", "done")), len(clone.lines("test", "done"))) == (1, 1)


def test_push_goes_as_far_as_the_registry(clone: Clone) -> None:
    clone.invoke("push", "--skip-repro", "not the point here")
    assert clone.public() == {}
    assert clone.lines("push", "done")
    assert not clone.lines("sign", "begun")
    clone.release("--skip-repro", "not the point here")
    assert len(clone.lines("build", "done")) == 1


def test_a_dry_run_touches_nothing(tmp_path: Path, registry: registries.Served) -> None:
    clone = Clone(tmp_path / "clone", registry.address)
    clone.extra = {"SHIPYARD_HOME": str(tmp_path / "home"), "DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
    before = files(clone.root)
    said = clone.release("--dry-run")
    for name in IMAGES:
        assert f"{registry.address}/llm-call-test-{name}:1.2.3" in said
    assert "1.2 1 latest" in said
    assert "warning:" not in said
    assert (clone.root / "VERSION").read_text() == "1.2.3\n"
    clone.write("untracked", "")
    (clone.root / "untracked").unlink()
    assert files(clone.root) == before
    assert registry.writes() == []
    assert not (tmp_path / "home").exists()
    key = clone.root / "secrets/signing/cosign.key"
    key.rename(key.with_name("kept"))
    assert "there is no signing key" in clone.release("--dry-run")
    key.with_name("kept").rename(key)
    told = clone.release("--dry-run", "--bump", "2.0.0", "--json")
    assert '"version": "2.0.0"' in told
    assert files(clone.root) == before
