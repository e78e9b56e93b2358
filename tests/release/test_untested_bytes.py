"""Somebody retags, removes, prunes or changes files while a release tests and pushes: never are other bytes pushed than were
tested. What is done in between is done by the clone's own tests, which run after loading, or between two steps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import docker
import shipyard
from shipyard import loading, owned
from shipyard.engine import Engine, api, packages
from shipyard.errors import BuildFailed, EngineFailed
from shipyard.layouts import Layout
from shipyard.registry import Registry
from shipyard.steps import push
from shipyard.steps import test as tests_step
from shipyard.world import World
from tests.support import pairs, registries
from tests.support.clones import IMAGES, Clone, kill
from tests.support.service import wait_until

SKIP = ("--skip-repro", "not the point here")
#: Runs before the clone's other tests: its images are loaded then.
_BETWEEN = """\
import docker
import shipyard

CLIENT = docker.DockerClient(base_url=shipyard.engine.find().host)
NAMES = sorted(
    tag
    for image in CLIENT.api.images()
    for tag in image["RepoTags"] or ()
    if tag.startswith("llm-call-test-") and tag.endswith("-" + {mark!r})
)


def test_somebody_does_this():
    assert len(NAMES) == 2
{code}
"""


@pytest.fixture
def engine() -> Engine:
    found: Engine = shipyard.engine.find()
    return found


@pytest.fixture
def clone(tmp_path: Path, registry: registries.Served, engine: Engine) -> Iterator[Clone]:
    found = Clone(tmp_path / "clone", registry.address)
    yield found
    loading.sweep(engine, [f"llm-call-test-{name}" for name in IMAGES], owned.mark(found.root))
    assert names(engine, found) == []


def names(engine: Engine, clone: Clone) -> list[str]:
    """The engine's names for what a clone has loaded, and its containers that hold it."""
    mark = owned.mark(clone.root)
    tags = [
        tag for each in api.get(engine.host, "/images/json") for tag in each["RepoTags"] or () if tag.endswith(mark)
    ]
    containers = api.get(engine.host, "/containers/json?all=1")
    return sorted(tags + [each["Id"] for each in containers if each["Labels"].get(loading.LABEL_HOLDER) == mark])


def between(clone: Clone, *lines: str) -> None:
    """Let this happen to the clone's images between their loading and their tests."""
    code = "\n".join(f"    {line}" for line in lines)
    clone.write("tests/images/test_a_between.py", _BETWEEN.format(mark=owned.mark(clone.root), code=code))
    clone.commit("Somebody else")


def pushed_nothing(clone: Clone) -> bool:
    return pairs.published(clone) == [] and clone.public() == {}


RETAGGED = "[CLIENT.images.get(NAMES[0]).tag(*NAMES[1].split(':'))]"
UNTAGGED = "CLIENT.api.remove_image(NAMES[1], force=True)"


@pytest.mark.parametrize("line", [RETAGGED, UNTAGGED], ids=["retagged", "removed"])
def test_a_name_that_changes_hands_stops_the_release(clone: Clone, engine: Engine, line: str) -> None:
    between(clone, line)
    said = clone.invoke("push", *SKIP, status=6)
    assert "was loaded as llm-call-test-t" in said
    assert "while it was tested; who else retags, removes or prunes images of" in said
    assert pushed_nothing(clone)
    # The tests themselves ran by digest, so they never saw other bytes.
    log = (clone.root / ".shipyard/release/1.2.3/test-linux-amd64.log").read_text()
    assert "3 passed" in log
    # Left alone, the same command goes on.
    clone.write("tests/images/test_a_between.py", "")
    clone.commit("Nobody else")
    clone.invoke("push", *SKIP)
    assert names(engine, clone) == []
    assert len(pairs.published(clone)) == 6


def test_a_pruned_image_is_still_tested(clone: Clone, engine: Engine) -> None:
    """What `docker image prune --all` may take, and `docker rmi` without force: nothing that a container uses."""
    between(
        clone,
        "import pytest",
        "for name in NAMES:",
        "    with pytest.raises(docker.errors.APIError, match='using its referenced image'):",
        "        CLIENT.api.remove_image(name)",
    )
    clone.invoke("test")
    assert names(engine, clone) == []


def test_tests_run_by_digest(clone: Clone) -> None:
    clone.write(
        "tests/images/test_given.py",
        "import json, os, re\n\n\ndef test_given():\n"
        "    given = json.loads(os.environ['SHIPYARD_TEST_IMAGES'])\n"
        "    assert all(re.fullmatch('sha256:[0-9a-f]{64}', each) for each in given.values())\n",
    )
    clone.commit("A look at what is given")
    clone.invoke("test")
    digests = {path.rpartition("-")[2]: layout.digest for path, layout in pairs.layouts(clone).items()}
    (line,) = clone.lines("test", "done")
    assert {key.removesuffix("-prod"): digest for key, digest in line.facts["digests"].items()} == digests


def test_removed_before_the_tests(clone: Clone, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = loading.load

    def gone(*arguments: object) -> loading.Loaded:
        found = load(*arguments)  # type: ignore[arg-type]
        client = docker.DockerClient(base_url=engine.host)
        client.api.remove_image(found.name, force=True)
        client.close()
        return found

    monkeypatch.setattr(tests_step.loading, "load", gone)
    with pytest.raises(EngineFailed, match="which names nothing before its tests"):
        clone.here(until="test")
    assert pushed_nothing(clone)


def changed_blob(layout: Layout) -> None:
    blob = layout.blob(layout.blobs(layout.parts()[0])[-1].digest)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def changed_index(layout: Layout) -> None:
    """The layout names another image, whole in itself: one platform of what was tested."""
    document = json.loads((layout.path / "index.json").read_text())
    document["manifests"] = [json.loads(layout.raw(layout.digest))["manifests"][0]]
    (layout.path / "index.json").write_text(json.dumps(document))


@pytest.mark.parametrize("change", [changed_blob, changed_index])
def test_a_layout_that_changed_after_its_tests(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, change: Callable[[Layout], None]
) -> None:
    run, layout = push.STEP.run, pairs.layouts(clone)["llm-call-test-tiny"].path

    def after(world: World) -> object:
        change(Layout(layout))
        return run(world)

    step = shipyard.world.Step("push", push.STEP.done, after)  # type: ignore[arg-type]
    steps = tuple(step if each.name == "push" else each for each in shipyard.pipeline.STEPS)
    monkeypatch.setattr(shipyard.pipeline, "STEPS", steps)
    with pytest.raises(BuildFailed, match="something changed it since"):
        clone.here(skip_repro="not the point here")
    assert clone.public() == {}
    client, (built,) = Registry(clone.registry), clone.lines("build", "done")
    assert client.head("llm-call-test-tiny", built.facts["digests"]["tiny-prod"]) is None


def test_no_push_without_a_line_about_these_tests(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a step before says: the journal has to know that these very digests passed."""
    steps = tuple(each for each in shipyard.pipeline.STEPS if each.name != "test")
    monkeypatch.setattr(shipyard.pipeline, "STEPS", steps)
    with pytest.raises(BuildFailed, match="says that these bytes passed their tests"):
        clone.here(skip_repro="not the point here")
    assert pushed_nothing(clone)


def test_what_a_killed_release_left_is_removed_by_the_next(clone: Clone, engine: Engine, tmp_path: Path) -> None:
    there = tmp_path / "there"
    between(clone, "import pathlib, time", f"pathlib.Path({str(there)!r}).touch()", "time.sleep(60)")
    process = clone.start("test")
    wait_until(there.exists, "the tests", 120)
    left = names(engine, clone)
    assert len(left) == 4
    kill(process)
    clone.git("rm", "--quiet", "tests/images/test_a_between.py")
    clone.write("docker/tiny/content", "tiny, again\n")
    clone.commit("Other bytes")
    clone.invoke("test")
    assert names(engine, clone) == []


def test_two_versions_of_one_repository_at_once(clone: Clone, tmp_path: Path, engine: Engine) -> None:
    """Worktrees share a git repository, and no name: each has its own layouts, journal, lease and images."""
    there = tmp_path / "worktree"
    clone.git("worktree", "add", "--quiet", "-b", "next", str(there))
    second = object.__new__(Clone)
    second.root, second.registry, second.extra = there, clone.registry, {}
    second.write("docker/tiny/content", "tiny of the next version\n")
    second.write("VERSION", "1.3.0\n")
    second.commit("The next version")
    shutil.copytree(clone.root / "secrets", there / "secrets")
    started = [each.start("push", *SKIP) for each in (clone, second)]
    said = [each.communicate(timeout=240)[0] for each in started]
    assert [each.returncode for each in started] == [0, 0], "\n".join(said)
    assert len(pairs.published(clone)) == len(pairs.published(second)) == 6
    assert names(engine, clone) == names(engine, second) == []


def test_two_users_with_one_engine(tmp_path: Path, registry: registries.Served, engine: Engine) -> None:
    """Each has a SHIPYARD_HOME, so that no lock of ours keeps them apart; both bring the same bytes of one commit."""
    first = Clone(tmp_path / "first", registry.address)
    second = first.twin(tmp_path / "second", registry.address)
    programs = packages.folder()
    for each in (first, second):
        home = tmp_path / f"home-{each.root.name}"
        home.mkdir()
        (home / programs.name).symlink_to(programs)
        shutil.copy(shipyard.engine.types.home() / "base.json", home)
        each.extra = {"SHIPYARD_HOME": str(home), **engine.variables()}
    started = [each.start("push", *SKIP) for each in (first, second)]
    said = [each.communicate(timeout=240)[0] for each in started]
    assert [each.returncode for each in started] == [0, 0], "\n".join(said)
    assert pairs.published(first) == pairs.published(second)
    assert len(pairs.published(first)) == 6
    assert names(engine, first) == names(engine, second) == []
