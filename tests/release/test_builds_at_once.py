"""Two checkouts of the same version with other content build on one engine at once: each gets, measures and names its own."""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard import bases, images, machine
from shipyard.engine import Engine, api
from shipyard.images import Request
from shipyard.models import BuildResult
from tests.support.small_release import SmallRelease

#: The image's name in its project and on the engine, on which these tests may run several times at once.
ONE = f"one-{secrets.token_hex(4)}"
NAME = f"small-{ONE}:1.2.3"


@pytest.fixture
def engine() -> Engine:
    found: Engine = shipyard.engine.find()
    return found


@pytest.fixture
def pair(tmp_path: Path, engine: Engine) -> Iterator[tuple[SmallRelease, SmallRelease]]:
    found = tuple(SmallRelease(tmp_path / name, (ONE,)) for name in ("mine", "other"))
    for each in found:
        (each.root / "config/settings.toml").write_text(f"answer = '{each.root.name}'\n")
    yield found  # type: ignore[misc]
    client = docker.DockerClient(base_url=engine.host)
    left = [tag for each in client.api.images() for tag in each["RepoTags"] or () if tag.startswith(NAME)]
    for each in left:
        client.api.remove_image(each, force=True)
    client.close()
    assert left in ([], [NAME]), "candidates are gone"


def inside(engine: Engine, digest: str) -> str:
    """A file of an image."""
    client = docker.DockerClient(base_url=engine.host)
    container = client.api.create_container(digest, command=["none"])
    try:
        data = b"".join(client.api.get_archive(container["Id"], "/config/settings.toml")[0])
    finally:
        client.api.remove_container(container["Id"])
        client.close()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
        handle = archive.extractfile(member)
        assert handle
        return handle.read().decode()


def elsewhere(small: SmallRelease, engine: Engine, home: Path, patch: pytest.MonkeyPatch) -> BuildResult:
    """A build of another user's: with a SHIPYARD_HOME of its own, so no lock of ours is in between."""
    known = machine.read("base.json")
    with patch.context() as alone:
        alone.setenv("SHIPYARD_HOME", str(home))
        machine.write("base.json", known)
        (result,) = images.build(small.project, engine, Request())
    return result


@pytest.mark.parametrize("moment", ["_bake", "_adopt", "_result"])
def test_another_build_in_between(
    pair: tuple[SmallRelease, SmallRelease],
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """The other one builds right after this one has baked, named, or told of its image."""
    mine, other = pair
    real, others = getattr(images, moment), list[BuildResult]()

    def then(*arguments: Any) -> Any:
        found = real(*arguments)
        if not others:
            monkeypatch.setattr(images, moment, real)
            others.append(elsewhere(other, engine, tmp_path / "home", monkeypatch))
        return found

    monkeypatch.setattr(images, moment, then)
    (result,) = images.build(mine.project, engine, Request())
    assert inside(engine, result.digest) == "answer = 'mine'\n"
    assert inside(engine, others[0].digest) == "answer = 'other'\n"
    # The name is for people: it has what was named last.
    last = result if moment == "_bake" else others[0]
    assert (api.image(engine.host, NAME) or {})["Id"] == last.digest


def tagged(engine: Engine, digest: str) -> None:
    """Give the name to an image."""
    client = docker.DockerClient(base_url=engine.host)
    client.api.tag(digest, *NAME.split(":"))
    client.close()


def test_ours_stays_ours_whatever_the_name_is_given_to(
    pair: tuple[SmallRelease, SmallRelease], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built again, and no container replaced, because of another checkout."""
    mine, other = pair
    (first,) = images.build(mine.project, engine, Request())
    elsewhere(other, engine, tmp_path / "home", monkeypatch)
    (again,) = images.build(mine.project, engine, Request())
    assert (again.status, again.digest) == ("skipped", first.digest)
    assert (api.image(engine.host, NAME) or {})["Id"] == first.digest, "the name is of what was asked for last"
    # The same inputs in other bytes: those of another commit.
    (other.root / "config/settings.toml").write_text("answer = 'mine'\n")
    other.commit()
    (twin,) = images.build(other.project, engine, Request(no_cache=True))
    assert twin.digest != first.digest
    (again,) = images.build(mine.project, engine, Request())
    assert (again.status, again.digest) == ("skipped", first.digest)


def test_what_this_checkout_built_last_counts(
    pair: tuple[SmallRelease, SmallRelease], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, _ = pair
    (first,) = images.build(mine.project, engine, Request())
    mine.commit()  # which a label tells
    (second,) = images.build(mine.project, engine, Request(no_cache=True))
    tagged(engine, first.digest)
    (again,) = images.build(mine.project, engine, Request())
    assert (again.status, again.digest) == ("skipped", second.digest)
    # One that was removed, or a file that was damaged, leaves what the name has.
    (mine.root / ".shipyard/built.json").write_text("[")
    (again,) = images.build(mine.project, engine, Request())
    assert (again.status, again.digest) == ("skipped", first.digest)


def test_size_and_why_speak_of_one_image_and_say_whose(
    pair: tuple[SmallRelease, SmallRelease], engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = pair
    images.build(other.project, engine, Request())
    capsys.readouterr()
    images.size(mine.project, engine, Request())
    said = capsys.readouterr().err
    assert f"{NAME} is not what this checkout would build (changed config/settings.toml)" in said
    assert images.why(mine.project, engine, Request()) == {NAME: ["changed config/settings.toml"]}
    images.build(mine.project, engine, Request())
    capsys.readouterr()
    images.size(mine.project, engine, Request())
    assert "is not what" not in capsys.readouterr().err


def test_a_base_that_names_other_bytes_is_not_built_from(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a bootstrapped base has its digest in it, and is anybody's to give: what it holds is compared."""
    project = shipyard.config.load(Path(__file__).parents[2])
    good = bases.ensure(engine, project.base)
    if good.origin != "bootstrap":
        pytest.skip("pulled from a hub by digest, which no tag can change")
    assert bases.sound(engine, good)
    client = docker.DockerClient(base_url=engine.host)
    fake = f"shipyard-base:of-the-test-{secrets.token_hex(4)}"
    try:
        repository, tag = fake.split(":")
        client.api.import_image_from_data(b"\0" * 1024, repository=repository, tag=tag)
        assert not bases.sound(engine, bases.Base(fake, good.digest, "bootstrap"))
        assert not bases.sound(engine, bases.Base("shipyard-base:nothing", good.digest, "bootstrap"))
    finally:
        client.api.remove_image(fake, force=True)
        client.close()
