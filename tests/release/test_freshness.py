"""What a moving tag names is what was promoted last, or verification says so: by a signed statement, and by what was seen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from invoke import Context

import shipyard
import verbs.signing
from shipyard import channel_statements, channels, promotion, publishing, rollback, signing_keys, verification
from shipyard.channels import Named
from shipyard.errors import RegistryFailed, ReleaseRefused, VerificationFailed
from shipyard.models import Project
from shipyard.registry import Registry
from shipyard.verification import Options
from tests.support import hostile_registry, registries, signed
from tests.support.hostile_registry import Release


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    monkeypatch.setattr(signing_keys, "present", lambda: False)
    with hostile_registry.release(tmp_path) as found:
        yield found


def found(release: Release, what: str = "latest", **options: Any) -> list[str]:
    report = shipyard.verification.verify(release.checkout, what, release.server.address, Options(**options))
    return [f"{each.kind}: {each.problem}" for each in report.findings]


def led_back(release: Release, *tags: str) -> None:
    release.server.tags |= dict.fromkeys(tags, release.made["1.2.2"].digest)


@pytest.mark.parametrize("what", ["latest", "1", "1.2"])
def test_a_moving_tag_that_was_led_back(release: Release, what: str) -> None:
    """It names a signed release of ours, and verified as good."""
    assert found(release, what) == found(release, f"tiny:{what}") == []
    led_back(release, what)
    for name in (what, f"tiny:{what}", f"{release.server.address}/tiny:{what}"):
        (problem,) = found(release, name)
        assert problem.startswith(f"older: it is older than what was promoted: {what} names 1.2.2, and 1.2.3 (sha256:")
        assert found(release, name, allow_older=True) == []
    assert found(release, "tiny" if what == "latest" else f"tiny:{what}") == [problem]


def test_who_names_a_version_or_a_digest_has_chosen_it(release: Release) -> None:
    led_back(release, "latest")
    assert found(release, release.made["1.2.2"].digest)[0].startswith("moved-alias: latest names")
    del release.server.tags[channels.TAG]
    for what in ("1.2.2", release.made["1.2.2"].digest, "1.2.3"):
        assert [each for each in found(release, what) if not each.startswith("moved-alias")] == []


def test_without_a_statement_nobody_says_what_is_current(release: Release) -> None:
    """A release from before there were statements, or a registry that hides it: the owner can write one."""
    del release.server.tags[channels.TAG]
    (problem,) = found(release)
    assert problem == "no-statement: nobody says that latest is current: there is no statement of channels"
    assert found(release, allow_older=True) == []
    release.state(tags={"1": {"digest": release.prod.digest, "version": "1.2.3"}})
    assert "does not name it" in found(release)[0]
    assert found(release, "1") == []


def test_a_statement_that_ended(release: Release) -> None:
    release.state(expires="2026-03-01T00:00:00Z")
    (problem,) = found(release)
    assert "expired: the statement 7 of 2026-01-01T00:00:00Z ended on 2026-03-01T00:00:00Z" in problem
    assert found(release, allow_older=True) == []
    assert found(release, "1.2.3") == []


def test_a_statement_that_was_led_back(release: Release) -> None:
    """The registry shows an old image with the statement that belonged to it; this checkout saw a newer one."""
    assert found(release) == []
    old = {"digest": release.made["1.2.2"].digest, "version": "1.2.2"}
    led_back(release, "latest", "1", "1.2")
    release.state(counter=6, tags=dict.fromkeys(("latest", "1", "1.2"), old))
    (problem,) = found(release)
    assert problem.startswith(
        "older: the statement 6 of 2026-01-01T00:00:00Z is older than what was promoted: statement 7"
    )
    seen = release.checkout.state / channel_statements.SEEN
    assert json.loads(seen.read_text()) == {f"{release.server.address}/tiny": 7}
    # A newer one that names the older release is a rollback of its owner.
    release.state(counter=8, tags=dict.fromkeys(("latest", "1", "1.2"), old))
    assert found(release) == []
    assert json.loads(seen.read_text()) == {f"{release.server.address}/tiny": 8}
    seen.write_text("damaged")
    assert found(release) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "is not signed by sha256:"),
        ({"repository": "other"}, "it is that of other"),
        ({"kind": "https://example.org/other"}, "a statement of another kind, https://example.org/other"),
        ({"tags": 5}, "its tags is an integer"),
        ({"tags": {"latest": {"digest": "x", "version": "1.2.3"}}}, "names no digest and no version"),
        (
            {"tags": {"latest": {"digest": "sha256:" + "0" * 64, "version": "\x1b[2K"}}},
            "names no digest and no version",
        ),
        ({"counter": "7"}, "its counter is a string"),
        ({"counter": -1}, "its counter is an integer"),
        ({"expires": "never"}, "its expires is no time"),
        ({"issued": 5}, "its issued is no time"),
    ],
)
def test_a_statement_that_does_not_count(release: Release, changes: dict[str, Any], reason: str) -> None:
    release.state(**changes)
    (problem,) = found(release)
    assert problem.startswith(
        "no-statement: nobody says that latest is current: the statement of channels does not count"
    )
    assert reason in problem
    assert problem.isprintable()


def test_the_verb_says_so_and_ends_with_18(
    release: Release, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs.signing, "ROOT", release.checkout.root)
    led_back(release, "latest")
    with pytest.raises(SystemExit) as ended:
        verbs.signing.verify(Context(), "latest", registry=release.server.address)
    assert (ended.value.code, "older than what was promoted" in capsys.readouterr().err) == (18, True)
    verbs.signing.verify(Context(), "latest", registry=release.server.address, allow_older=True, json=True)
    said = capsys.readouterr()
    assert [each["kind"] for each in json.loads(said.out)["accepted"]] == ["older"]
    assert "warning: " in said.err


# Written by promotions: real cosign, a real registry.


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Project:
    checkout = signed.project(tmp_path_factory.mktemp("keys"))
    signing_keys.init(checkout)
    return checkout


def only_prod(checkout: Project) -> Project:
    """The checkout without the target cuda."""
    path = checkout.root / "docker/images.toml"
    path.write_text(path.read_text().replace('"prod", "cuda", "dev"', '"prod", "dev"'))
    loaded: Project = shipyard.config.load(checkout.root)
    return loaded


def test_a_rollback_says_so_and_forth_again(
    registry: registries.Served, keys: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, client = only_prod(keys), Registry(registry.address)
    made = {each: signed.artifact(tmp_path, registry.address, each) for each in ("1.2.2", "1.2.3")}
    for version, each in made.items():
        signed.publish(replace(checkout, version=version), client, each, "latest", "1", "1.2")

    def verify(**options: Any) -> list[str]:
        report = shipyard.verification.verify(checkout, "latest", registry.address, Options(**options))
        assert report.cosign
        return [each.kind for each in report.findings]

    def statement() -> channels.Channels:
        there = channel_statements.read(checkout, client, "tiny", shipyard.signing.trust(checkout)).channels
        assert there
        return there

    assert (verify(), statement().counter) == ([], 2)
    publishing.move(client, made["1.2.2"], ["latest"])  # whoever may write tags, without the key
    assert verify() == ["older"]
    rollback.promote(checkout, "1.2.2", registry.address)
    assert (verify(), statement().counter, statement().tags["latest"].version) == ([], 3, "1.2.2")
    writes = registry.writes()
    rollback.promote(checkout, "1.2.2", registry.address)
    assert registry.writes() == writes

    # Killed between the statement and the tags: a stranger is told, the same again finishes.
    def killed(*_: Any) -> list[publishing.Moved]:
        msg = "killed"
        raise RegistryFailed(msg)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "move", killed)
        with pytest.raises(RegistryFailed, match="killed"):
            rollback.promote(checkout, "1.2.3", registry.address)
    assert verify() == ["older"]
    rollback.promote(checkout, "1.2.3", registry.address)
    assert (verify(), statement().counter) == ([], 4)

    # In the last third of its time a promotion writes it again, and only then.
    end = statement().expires
    monkeypatch.setattr(time, "time", lambda: end - 40 * 86400.0)
    rollback.promote(checkout, "1.2.3", registry.address)
    assert statement().counter == 4
    monkeypatch.setattr(time, "time", lambda: end - 20 * 86400.0)
    rollback.promote(checkout, "1.2.3", registry.address)
    assert (statement().counter, statement().expires) == (5, int(end + 70 * 86400))
    monkeypatch.undo()

    # The key alone says what is current: with another one nothing is moved.
    stranger = only_prod(signed.project(tmp_path / "stranger"))
    signing_keys.init(stranger)
    before = client.head("tiny", "latest"), client.head("tiny", channels.TAG)
    with pytest.raises(VerificationFailed):
        rollback.promote(stranger, "1.2.2", registry.address)
    assert (client.head("tiny", "latest"), client.head("tiny", channels.TAG)) == before


def test_a_statement_of_several_targets_grows_and_forgets_nothing_it_may_not(
    registry: registries.Served, keys: Project, tmp_path: Path
) -> None:
    checkout, client = replace(keys, version="1.2.3"), Registry(registry.address)
    made = signed.artifact(tmp_path, registry.address)
    cuda = signed.artifact(tmp_path, registry.address, target="cuda")
    promotion.state(checkout, client, promotion.wanted([(made, "1.2.3"), (cuda, "1.2.3")]))
    ours = shipyard.signing.trust(checkout)
    first = client.manifest("tiny", channels.TAG)
    there = channel_statements.read(checkout, client, "tiny", ours).channels
    assert there and first
    assert set(there.tags) == {"latest", "1", "1.2", "latest-cuda", "1-cuda", "1.2-cuda"}
    assert there.tags["1-cuda"] == Named(cuda.digest, "1.2.3")
    promotion.state(checkout, client, promotion.wanted([(made, "1.2.3")], {made.key: ["2"]}))
    again = channel_statements.read(checkout, client, "tiny", ours).channels
    assert again and (again.counter, set(again.tags)) == (2, {*there.tags, "2"})
    # One that the registry led back is not signed anew: only what is promoted now.
    client.push_manifest("tiny", channels.TAG, *first[:2])
    assert not promotion.settled(checkout, client, promotion.wanted([(made, "1.2.3")]))
    promotion.state(checkout, client, promotion.wanted([(made, "1.2.3")]))
    last = channel_statements.read(checkout, client, "tiny", ours).channels
    assert last and (last.counter, set(last.tags)) == (3, {"latest", "1", "1.2"})


def test_the_number_of_days(monkeypatch: pytest.MonkeyPatch) -> None:
    assert channels.days() == 90
    monkeypatch.setenv("SHIPYARD_CHANNELS_DAYS", "7")
    assert channels.days() == 7
    for wrong in ("0", "-1", "x", "99999", "1.5"):
        monkeypatch.setenv("SHIPYARD_CHANNELS_DAYS", wrong)
        with pytest.raises(ReleaseRefused, match="is no number of days"):
            channels.days()
    assert verification.Options().allow_older is False
