"""Builds that fail: by themselves, by a killed engine, a full disk, Ctrl-C. The next one works."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

import shipyard
from shipyard.engine import Engine
from tests.engine.conftest import Home
from tests.support.service import wait_until

IMAGES = """
source = "https://example.invalid"
licenses = "Apache-2.0"
[base]
image = "debian:trixie-slim"
suite = "trixie"
[image.one]
title = "one"
repository = "one"
context = "."
dockerfile = "docker/one/Dockerfile"
targets = ["prod"]
platforms = ["linux/amd64", "linux/arm64"]
budget = { prod = "20MB" }
"""
GOOD = """\
FROM debian:trixie-slim AS builder
RUN echo good >/file
FROM scratch AS prod
COPY --from=builder /file /
CMD ["/file"]
"""


def broken(command: str) -> str:
    return GOOD.replace("RUN echo good >/file", f"RUN {command}")


@pytest.fixture
def yard(home: Home) -> Home:
    """An engine that holds the base image of the engine in use, and a checkout with one small image."""
    (home.checkout / "docker/images.toml").write_text(IMAGES)
    (home.checkout / "docker/one").mkdir()
    write(home, GOOD)
    return home


def write(yard: Home, text: str) -> None:
    (yard.checkout / "docker/one/Dockerfile").write_text(text)


def seed(yard: Home) -> None:
    """Start the engine and give it the base image, which it could not fetch from its namespace."""
    yard.invoke("engine.up")
    outer, project = shipyard.engine.find(), shipyard.config.load(yard.checkout)
    base = shipyard.bases.ensure(outer, project.base)
    inner = docker(yard)
    archive = yard.checkout / "base.tar"
    argv = [outer.docker, "save", "--output", str(archive), base.reference]
    subprocess.run(argv, env=outer.environment(), check=True, capture_output=True)
    subprocess.run([*inner, "load", "--input", str(archive)], check=True, capture_output=True)
    archive.unlink()
    entry = {"reference": base.reference, "digest": base.digest, "origin": base.origin}
    key = f"unix://{yard.root}/run/docker.sock debian:trixie-slim"
    (yard.root / "base.json").write_text(json.dumps({key: entry}))


def docker(yard: Home) -> list[str]:
    engine = Engine(f"unix://{yard.root}/run/docker.sock", shipyard.engine.find().docker, "embedded")
    return [engine.docker, "--host", engine.host]


def digest(yard: Home) -> str:
    found = subprocess.run(
        [*docker(yard), "image", "inspect", "-f", "{{.Id}}", "one:0.1.0"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def builders(yard: Home) -> list[str]:
    return [command for command in yard.processes().values() if "buildx" in command or "docker build" in command]


def test_a_failing_step_says_where_and_leaves_the_earlier_image(yard: Home) -> None:
    seed(yard)
    assert json.loads(yard.invoke("build", "--json").stdout)[0]["status"] == "built"
    before = digest(yard)
    write(yard, broken("echo first; echo the reason >&2; exit 3"))
    refused = yard.invoke("build", status=7)
    for part in (
        "one:0.1.0 (docker/one/Dockerfile, target prod)",
        "the reason",
        "docker/one/Dockerfile:2",
        "exit code: 3",
    ):
        assert part in refused.stderr, refused.stderr
    assert digest(yard) == before
    write(yard, GOOD)
    assert json.loads(yard.invoke("build", "--json").stdout)[0] | {"seconds": 0} == {
        "name": "one",
        "target": "prod",
        "platform": "linux/amd64",
        "reference": "one:0.1.0",
        "digest": before,
        "size": 5,
        "status": "skipped",
        "reason": "up to date",
        "seconds": 0,
    }


def test_an_image_over_budget_lists_its_biggest_files_and_is_not_used(yard: Home) -> None:
    seed(yard)
    yard.invoke("build")
    before = digest(yard)
    write(yard, broken("head -c 21000000 /dev/zero >/file"))
    refused = yard.invoke("build", status=8)
    assert (
        "one:0.1.0 is 21.0 MB, over its budget of 20.0 MB (docker/images.toml: image.one.budget.prod)" in refused.stderr
    )
    assert "21.0 MB  /file" in refused.stderr
    assert digest(yard) == before


def test_an_engine_killed_in_the_middle_of_a_build(yard: Home) -> None:
    seed(yard)
    write(yard, broken("touch /started; sleep 60; echo good >/file"))
    build = yard.start("build")
    wait_until(lambda: any("sleep 60" in command for command in _everything()), "the step", 30)
    import os

    os.kill(yard.dockerd(), signal.SIGKILL)
    _, stderr = build.communicate(timeout=60)
    assert build.returncode == 6, stderr
    assert "went away during the build; images built before are untouched" in stderr
    write(yard, GOOD)
    yard.invoke("engine.up")
    assert json.loads(yard.invoke("build", "--json").stdout)[0]["status"] == "built"


def test_ctrl_c_leaves_no_process_and_no_half_written_file(yard: Home) -> None:
    seed(yard)
    write(yard, broken("sleep 61; echo good >/file"))
    build = yard.start("build")
    wait_until(lambda: any("sleep 61" in command for command in _everything()), "the step", 30)
    import os

    os.killpg(build.pid, signal.SIGINT)
    _, stderr = build.communicate(timeout=30)
    assert (build.returncode, stderr.splitlines()[-1]) == (130, "error: interrupted")
    wait_until(lambda: not any("sleep 61" in command for command in _everything()), "the end of the step", 30)
    assert list(yard.root.glob(".*")) == []
    write(yard, GOOD)
    assert json.loads(yard.invoke("build", "--json").stdout)[0]["status"] == "built"


def test_two_builds_at_once_share_the_work(yard: Home) -> None:
    seed(yard)
    both = [yard.start("build", "--json") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(json.loads(stdout)[0]["status"] for stdout, _ in said) == ["built", "skipped"]


def test_kill_9_ends_the_builder_too(yard: Home) -> None:
    seed(yard)
    write(yard, broken("sleep 62; echo good >/file"))
    build = yard.start("build")
    wait_until(lambda: any("sleep 62" in command for command in _everything()), "the step", 30)
    build.kill()
    build.communicate(timeout=30)
    wait_until(lambda: not any("sleep 62" in command for command in _everything()), "the end of the step", 30)


def test_a_full_disk_is_named_and_the_next_build_works(yard: Home) -> None:
    (yard.root / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900m", "tmpfs", yard.root / "data"], check=True)
    seed(yard)
    write(yard, broken("head -c 2000000000 /dev/zero >/file"))
    refused = yard.invoke("build", status=11)
    assert "no space left for the build" in refused.stderr
    assert f"{yard.root}/data has" in refused.stderr
    write(yard, GOOD)
    assert json.loads(yard.invoke("build", "--json").stdout)[0]["status"] == "built"


def _everything() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
