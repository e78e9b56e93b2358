"""A release's build: layouts with the same bytes from any clone, whole or not at all, and never twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import docker
import shipyard
from shipyard import images, loading, owned, release_build, source
from shipyard.artifacts import Artifact
from shipyard.engine import Engine
from shipyard.errors import BuildFailed, OverBudget, UnknownName
from shipyard.layouts import Layout
from shipyard.models import LABEL_INPUTS
from tests.support.service import wait_until
from tests.support.small_release import DOCKERFILE, SmallRelease
from tests.support.stack import ROOT

#: Seconds that nothing else on a machine sleeps.
ENDLESS = 86399
BUILD = """
import sys
from pathlib import Path
import shipyard
from shipyard import release_build, source
root = Path(sys.argv[1])
project, engine = shipyard.config.load(root), shipyard.engine.find()
release_build.build(project, engine, source.commit(root), Path(sys.argv[2]))
"""


@pytest.fixture
def engine() -> Engine:
    return shipyard.engine.find()


@pytest.fixture
def small(tmp_path: Path) -> SmallRelease:
    return SmallRelease(tmp_path / "small")


def build(small: SmallRelease, engine: Engine, out: Path, **options: object) -> tuple[Artifact, ...]:
    return release_build.build(small.project, engine, source.commit(small.root), out, **options)  # type: ignore[arg-type]


def digests(artifacts: tuple[Artifact, ...]) -> dict[str, str]:
    return {each.key: each.digest for each in artifacts}


def left(out: Path) -> set[str]:
    return {each.name for each in out.iterdir()} if out.exists() else set()


def test_clones_give_the_same_digests_and_nothing_is_built_twice(
    small: SmallRelease, engine: Engine, tmp_path: Path
) -> None:
    first = build(small, engine, tmp_path / "a", registry="127.0.0.1:5000/team")
    assert [(each.key, each.tagged) for each in first] == [
        ("one-prod", "127.0.0.1:5000/team/small-one:1.2.3"),
        ("two-prod", "127.0.0.1:5000/team/small-two:1.2.3"),
    ]
    assert [[part.platform for part in each.parts] for each in first] == [["linux/amd64", "linux/arm64"]] * 2

    other = small.clone(tmp_path / "elsewhere/clone")
    (other / "config/settings.toml").chmod(0o600)
    again = release_build.build(
        shipyard.config.load(other), engine, source.commit(other), tmp_path / "b", no_cache=True
    )
    assert digests(again) == digests(first)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    away = Engine("unix:///nowhere.sock", "/nowhere/docker", "none")  # nobody is asked
    assert build(small, away, tmp_path / "a", registry="127.0.0.1:5000/team") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_labels_hold_nothing_that_drifts(small: SmallRelease, engine: Engine, tmp_path: Path) -> None:
    (one, _) = build(small, engine, tmp_path / "out")
    layout = Layout(one.layout)
    labels = layout.document(layout.blobs(one.parts[0])[0].digest)["config"]["Labels"]
    commit = source.commit(small.root)
    prefix = "org.opencontainers.image."
    assert (labels[prefix + "version"], labels[prefix + "revision"]) == ("1.2.3", commit.revision)
    assert labels[prefix + "created"] == "2026-02-03T04:05:06Z"
    project = small.project
    expected = shipyard.plans.job(project, project.images["one"], "prod", ("linux/amd64",), None).inputs
    assert labels[LABEL_INPUTS] == expected  # without a base: its digest is not the same on every machine


def test_a_damaged_or_changed_layout_is_built_again_and_no_other(
    small: SmallRelease, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = build(small, engine, out)
    layer = Layout(first[0].layout).blob(first[0].parts[1].layers[0])
    layer.write_bytes(layer.read_bytes()[:-1] + b"!")
    untouched = (first[1].layout / "index.json").stat().st_ino
    assert build(small, engine, out) == first
    assert Layout(first[0].layout).check() == []
    assert f"{layer}: holds sha256:" in capsys.readouterr().err
    assert (first[1].layout / "index.json").stat().st_ino == untouched

    (small.root / "VERSION").write_text("1.2.4\n")
    small.commit()
    assert {each.tag for each in build(small, engine, out)} == {"1.2.4"}


def test_a_broken_image_leaves_nothing_and_what_was_there_stays(
    small: SmallRelease, engine: Engine, tmp_path: Path
) -> None:
    small.write("two", DOCKERFILE.replace("seq 1 2000", "echo the reason >&2; exit 3; seq 1 2000"))
    small.commit()
    with pytest.raises(BuildFailed, match=r"two-prod|small-two") as failed:
        build(small, engine, tmp_path / "out")
    assert "the reason" in str(failed.value)
    assert left(tmp_path / "out") == {".building"}
    small.write("two", DOCKERFILE)
    small.commit()
    first = build(small, engine, tmp_path / "out")
    assert left(tmp_path / "out") == {"one-prod", "two-prod"}
    small.write("two", DOCKERFILE.replace("seq 1 2000", "exit 3; seq 1 2000"))
    small.commit()
    with pytest.raises(BuildFailed):
        build(small, engine, tmp_path / "out")
    assert [Layout(each.layout).check() for each in first] == [[], []]


def test_an_image_over_budget_is_refused_with_its_biggest_file(
    small: SmallRelease, engine: Engine, tmp_path: Path
) -> None:
    small.write("one", DOCKERFILE.replace("seq 1 2000", "head -c 1100000 /dev/zero >/layer/big; seq 1 2000"))
    small.commit()
    with pytest.raises(OverBudget, match=r"one-prod is 1\.1 MB, over its budget of 1\.0 MB") as failed:
        build(small, engine, tmp_path / "out")
    assert "1.1 MB  /big" in str(failed.value)
    assert left(tmp_path / "out") == {".building"}


def test_killed_in_the_middle_and_run_again(small: SmallRelease, engine: Engine, tmp_path: Path) -> None:
    expected = digests(build(small, engine, tmp_path / "expected", no_cache=True))
    out = tmp_path / "out"
    slow = DOCKERFILE.replace("seq 1 2000", f"sleep {ENDLESS}; seq 1 2000")
    small.write("two", slow)
    small.commit()
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(small.root), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    wait_until((out / ".building").exists, "the request", 60)
    wait_until(_sleeping, "the step that never ends", 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert left(out) == {".building"}
    small.git("reset", "--quiet", "--hard", "HEAD~1")
    assert digests(build(small, engine, out)) == expected
    assert left(out) == {"one-prod", "two-prod"}
    wait_until(lambda: not _sleeping(), "the end of the killed request's step", 60)


def _sleeping() -> bool:
    """Whether the slow step runs, anywhere on this machine: containers' processes are the host's too."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == f"sleep\0{ENDLESS}\0".encode():
                return True
        except OSError:
            continue
    return False


def test_the_engine_gets_the_very_bytes(small: SmallRelease, engine: Engine, tmp_path: Path) -> None:
    (one, _) = build(small, engine, tmp_path / "out", registry="127.0.0.1:5000/team")
    mark, native = owned.mark(small.root), images.native(engine)
    found = loading.load(engine, one, mark, native)
    client = docker.DockerClient(base_url=engine.host)
    try:
        assert found.name == f"small-one:1.2.3-release-{one.digest[7:23]}-{mark}"
        assert client.api.inspect_image(found.name)["Id"] == found.digest == one.digest
        shutil.rmtree(one.layout / "blobs")  # there already: nothing is read
        assert loading.load(engine, one, mark, native) == found
        for part in one.parts:
            container = client.api.create_container(found.digest, command=["none"], platform=part.platform)
            client.api.remove_container(container["Id"])
    finally:
        client.images.remove(found.name, force=True)
        client.close()


def test_an_unknown_image(small: SmallRelease, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(
        UnknownName, match=r'image "onne": not declared in docker/images\.toml; perhaps you meant "one"'
    ):
        build(small, engine, tmp_path / "out", names=["onne"])


def test_what_a_layout_was_built_from_stands_beside_it(small: SmallRelease, engine: Engine, tmp_path: Path) -> None:
    (one, _) = build(small, engine, tmp_path / "out")
    inputs = json.loads((one.layout / "inputs.json").read_text())
    assert (inputs["target"], inputs["platforms"]) == ("prod", ["linux/amd64", "linux/arm64"])
