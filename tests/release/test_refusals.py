"""What a release refuses, each with its own exit code, before anything is changed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shipyard
from shipyard import errors
from shipyard.errors import ReleaseRefused, ShipyardError
from tests.support import registries
from tests.support.clones import IMAGES, Clone


@pytest.fixture
def clone(tmp_path: Path, registry: registries.Served) -> Clone:
    return Clone(tmp_path / "clone", registry.address)


def refused(clone: Clone, error: type[ShipyardError], message: str, code: int, **options: object) -> str:
    """A release ends with this class, whose exit code is this, and nothing is changed; what it says."""
    head, status = clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain")
    with pytest.raises(error, match=message) as caught:
        clone.here(**options)
    assert (type(caught.value), caught.value.exit_code) == (error, code)
    assert (clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain")) == (head, status)
    assert clone.git("tag") == ""
    assert {
        entry.step
        for path in (clone.root / ".shipyard").rglob("*.jsonl")
        for entry in clone.journal(path.stem).entries()
    } <= {"preflight"}
    return str(caught.value)


def dirty(clone: Clone) -> None:
    clone.write("docker/tiny/content", "changed\n")
    clone.write("untracked", "")


def detached(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "--detach")


def no_fragment(clone: Clone) -> None:
    clone.git("rm", "--quiet", "changes/first.feature.md")
    clone.commit("No fragment")


def misnamed(clone: Clone) -> None:
    clone.write("changes/notes.md", "")
    clone.commit("A file that towncrier passes over")


def of_the_future(clone: Clone) -> None:
    clone.write("new", "")
    clone.git("add", "--all")
    when = int(time.time()) + 3600
    clone.git("-c", "core.logAllRefUpdates=false", "commit", "--quiet", "--message", "Later", f"--date=@{when}")
    tree, parent = clone.git("rev-parse", "HEAD^{tree}"), clone.git("rev-parse", "HEAD^")
    body = f"tree {tree}\nparent {parent}\nauthor T <t@t> {when} +0000\ncommitter T <t@t> {when} +0000\n\nLater\n"
    path = clone.root / ".git/later"
    path.write_text(body)
    clone.git("reset", "--quiet", "--hard", clone.git("hash-object", "-t", "commit", "-w", str(path)))


def ambiguous(clone: Clone) -> None:
    clone.write("VERSION", "1.2.3-cuda\n")
    clone.commit("A version that reads like another image's tag")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (dirty, r"the tree is not clean: docker/tiny/content, untracked; commit"),
        (detached, r"HEAD is detached at [0-9a-f]{12}; .* --allow-detached"),
        (no_fragment, r"changes/ has no fragment, and CHANGELOG.md no chapter of 1.2.3"),
        (misnamed, r"changes/notes.md: not the name of a fragment"),
        (of_the_future, r"the commit is of the future"),
        (ambiguous, r"would take the tag of the target cuda of 1.2.3"),
    ],
)
def test_a_checkout_that_is_not_fit(clone: Clone, spoil: Callable[[Clone], None], message: str) -> None:
    spoil(clone)
    refused(clone, ReleaseRefused, message, 19)


def test_everything_wrong_is_told_at_once(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    dirty(clone)
    detached(clone)
    (clone.root / "secrets/signing/cosign.key").unlink()
    said = refused(clone, ReleaseRefused, "^- ", 19)
    for part in ("the tree is not clean", "HEAD is detached", "there is no signing key"):
        assert part in said
    assert len(re.findall("^- ", said, re.MULTILINE)) == 3


@pytest.mark.parametrize(
    ("bump", "error", "message", "code"),
    [
        ("1.2.2", ReleaseRefused, "1.2.2 is older than VERSION, which is 1.2.3", 19),
        ("1.2.3-rc.1", ReleaseRefused, "is older than VERSION", 19),
        ("1.3", ReleaseRefused, "is not a semantic version", 19),
        ("majr", errors.UnknownName, 'perhaps you meant "major"', 4),
    ],
)
def test_a_bump_that_cannot_be(clone: Clone, bump: str, error: type[ShipyardError], message: str, code: int) -> None:
    refused(clone, error, message, code, bump=bump)


def test_a_version_that_is_none_ends_with_its_own_code(clone: Clone) -> None:
    clone.write("VERSION", "one\n")
    clone.commit("No version")
    assert '"one" is not a semantic version' in clone.release(status=3)


def test_no_repository_and_half_of_one(clone: Clone, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match="is a folder of the repository"):
        shipyard.source.repository(clone.root / "docker")
    with pytest.raises(ReleaseRefused, match="is not a git repository"):
        shipyard.source.repository(tmp_path)
    clone.write("more", "")
    clone.commit("More")
    shallow = clone.twin(tmp_path / "twin", clone.registry)
    shallow.git("fetch", "--quiet", "--depth=1", f"file://{clone.root}")
    refused(shallow, ReleaseRefused, "this is a shallow clone", 19)


def test_a_changed_file_with_the_version_of_a_release(clone: Clone, registry: registries.Served) -> None:
    first = clone.git("rev-parse", "HEAD")
    clone.here(skip_repro="not the point here")
    clone.write("docker/tiny/content", "changed\n")
    head = clone.commit("Changed")
    before, public = len(registry.writes()), clone.public()
    with pytest.raises(ReleaseRefused) as caught:
        clone.here()
    said = str(caught.value)
    assert f"the git tag v1.2.3 names commit {first[:12]}, and {head[:12]} is checked out" in said
    for name in IMAGES:
        assert f"llm-call-test-{name}:1.2.3 is of commit {first[:12]}" in said
    # Without the git tag, as in a clone elsewhere, the registry alone says so.
    clone.git("tag", "--delete", "v1.2.3")
    with pytest.raises(ReleaseRefused, match=f"1.2.3 is of commit {first[:12]}"):
        clone.here()
    assert {method for method, _, _ in registry.writes()[before:]} <= {"POST", "DELETE"}
    assert clone.public() == public


def test_no_key_and_a_wrong_password(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "wrong")
    refused(clone, errors.SigningFailed, "password is wrong", 17)
    monkeypatch.delenv("COSIGN_PASSWORD")
    (clone.root / "secrets/signing/cosign.key").unlink()
    refused(clone, errors.SigningFailed, "there is no signing key", 17)


def test_a_registry_that_is_not_there(clone: Clone, registry: registries.Served) -> None:
    registry.kill()
    refused(clone, errors.RegistryFailed, f"{registry.address}: .* is the registry up", 15)


def test_a_registry_that_takes_no_writes(clone: Clone, registry: registries.Served) -> None:
    registry.configure(registries.READ_ONLY)
    registry.restart()
    refused(clone, errors.AccessDenied, "takes no writes: it is read-only", 16)


def test_credentials_that_are_missing_or_expired(
    clone: Clone, registry: registries.Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "p" * 24
    registry.configure(registries.htpasswd(tmp_path / "users", "releaser", password))
    registry.restart()
    refused(clone, errors.AccessDenied, "without a login", 16)
    registries.login(monkeypatch, tmp_path, "releaser", "expired")
    said = refused(clone, errors.AccessDenied, "is it wrong or expired", 16)
    assert "expired\n" not in said
    assert password not in said
    registries.login(monkeypatch, tmp_path, "releaser", password)
    clone.here(until="push", skip_repro="not the point here")
    assert not [path for path in (clone.root / ".shipyard").rglob("*.jsonl") if password in path.read_text()]


def test_no_room_is_told_before_a_minute_is_spent(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipyard.steps.preflight.LEAST", 10**18)
    refused(clone, errors.DiskFull, "a release needs 1000000000000.0 MB", 11)


def test_clocks_that_differ(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipyard.registry.Registry.ping", lambda _: time.time() + 1000)
    refused(clone, ReleaseRefused, r"the clock of 127.0.0.1:\d+ differs from ours by (1000|999) s", 19)


def test_a_hook_s_variables_do_not_lead_elsewhere(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Clone(tmp_path / "other", clone.registry)
    mine = clone.git("rev-parse", "HEAD")
    other.write("more", "")
    other.commit("More")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.root / ".git/index"))
    assert shipyard.source.commit(clone.root).revision == mine
