"""The proofs. `nox` runs all of them, `nox -s unit` one; what follows `--` goes to pytest.

`./scripts/nox` runs all of them in three lanes at the same time: `--tags lane1`, `lane2` and `lane3`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2.9"
# Everything is in the environment that ./scripts/nox made from requirements/toolkit.txt, with hashes.
nox.options.default_venv_backend = "none"
nox.options.sessions = [
    *("lint", "types", "unit", "services", "images", "cli", "engine"),
    *("dev", "phase1", "phase2", "phase3", "granger", "migrate", "faults", "isolation"),
    *("release", "repro", "doctor", "local"),
]
nox.options.stop_on_first_error = False

# Also when nox was called by its path, without the environment being activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))

ROOT = Path(__file__).parent
OVERLAYS = ("host", "hybrid", "dev", "dev+login", "prod")
ADD_ONS = ("gpu", "granger", "monitoring")


@nox.session(tags=["lane3"])
def lint(session: nox.Session) -> None:
    """Style of Python, Dockerfiles and shell scripts; every overlay parses by itself, production keeps its policy."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("hadolint", *map(str, sorted(ROOT.glob("docker/*/Dockerfile"))))
    scripts = ["scripts/invoke", "scripts/nox", "scripts/environment.sh", ".ci/run"]
    session.run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *scripts)
    variables = _engine(session)
    variables["CLAUDE_LOGIN_FOLDER"] = "/home/somebody/.claude"
    for overlay in OVERLAYS:
        for add_ons in ((), ADD_ONS):
            files = [f"--file=compose/{name}.yaml" for name in ("compose", *overlay.split("+"), *add_ons)]
            session.run("docker", "compose", *files, "config", "--quiet", env=variables, external=True)
    for overlay in ("prod", "prod+granger+monitoring"):
        session.run("invoke", "config", "--overlay", overlay, silent=True)  # fails on what must not be in production
    local = {"MODEL_SERVER": "local-llm", "LLM_CALL_API_VARIANT": "cuda", "CLAUDE_PROXY_VARIANT": "cuda"}
    for driver in ("nvidia", "cdi"):
        with_gpu = {**local, "GPU_DRIVER": driver, "GPU_DEVICE": "1"}
        session.run("invoke", "config", "--overlay", "prod+gpu", silent=True, env=with_gpu)


@nox.session(tags=["lane3"])
def types(session: nox.Session) -> None:
    """Types of the toolkit and the services, strict."""
    session.run("mypy")


@nox.session(tags=["lane2"])
def unit(session: nox.Session) -> None:
    """Pure logic: no engine, no processes, no sockets."""
    _pytest(session, "tests/unit", *session.posargs)


@nox.session(tags=["lane2"])
def services(session: nox.Session) -> None:
    """The services as real processes on 127.0.0.1, with the real Redis: the one of the built image."""
    with _unpacked(session, "redis") as root, tempfile.TemporaryDirectory() as programs:
        # By its own C library, so that the host's version does not matter.
        loader, libraries = next(root.glob("usr/lib*/ld-linux-*")), next(root.glob("usr/lib/*-linux-gnu"))
        server = Path(programs) / "redis-server"
        server.write_text(f'#!/bin/sh\nexec {loader} --library-path {libraries} {root}/usr/bin/redis-server "$@"\n')
        server.chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        _pytest(session, "tests/services", "-m", "not cli", *session.posargs, env={"PATH": path})


@nox.session(tags=["lane2"])
def cli(session: nox.Session) -> None:
    """The Claude proxy with the real CLI: the binary of the built image, run on this machine."""
    with _unpacked(session, "claude-proxy") as root:
        cli = root / "usr/local/bin/claude"
        _pytest(session, "tests/services", "-m", "cli", *session.posargs, env={"CLAUDE_CLI": str(cli)})


@nox.session(tags=["lane2"])
def engine(session: nox.Session) -> None:
    """The embedded engine: races, crashes, full disks, builds that break; in network namespaces of its own."""
    _pytest(session, "tests/engine", *session.posargs)


@nox.session(tags=["lane1"])
def images(session: nox.Session) -> None:
    """Every built image, started hardened."""
    _pytest(session, "tests/images", *session.posargs)


@nox.session(tags=["lane3"])
def dev(session: nox.Session) -> None:
    """`invoke dev`: hot reload, every port, Ctrl-C."""
    _pytest(session, "tests/phases/test_dev.py", *session.posargs)


@nox.session(tags=["lane3"])
def phase1(session: nox.Session) -> None:
    """`invoke host`: the API on the host, a request through every path, nothing left afterwards."""
    _pytest(session, "tests/phases/test_host.py", "tests/phases/test_host_process.py", *session.posargs)


@nox.session(tags=["lane3"])
def phase2(session: nox.Session) -> None:
    """`invoke hybrid`: everything in containers, with debug access; a request through every path."""
    _pytest(session, "tests/phases/test_hybrid.py", *session.posargs)


@nox.session(tags=["lane2"])
def phase3(session: nox.Session) -> None:
    """`invoke prod`: hardened, the way out, monitoring; a request through every path."""
    files = ("prod", "rotation", "monitoring", "way_out")
    _pytest(session, *(f"tests/phases/test_{name}.py" for name in files), *session.posargs)


@nox.session(tags=["lane2"])
def granger(session: nox.Session) -> None:
    """`--granger`: a hub and spokes on the shared network use the API and reach nothing else."""
    _pytest(session, "tests/phases/test_granger.py", *session.posargs)


@nox.session(tags=["lane3"])
def migrate(session: nox.Session) -> None:
    """From phase to phase and back with data in Redis, under clients that never stop calling."""
    _pytest(session, "tests/phases/test_moves.py", *session.posargs)


@nox.session(tags=["lane3"])
def faults(session: nox.Session) -> None:
    """Kills, hangs, full volumes, a restarted engine, under clients that never stop calling."""
    _pytest(session, "tests/faults", *session.posargs)


@nox.session(tags=["lane3"])
def isolation(session: nox.Session) -> None:
    """From inside the Claude proxy and from the shared network: what must be out of reach, each with a positive control."""
    _pytest(session, "tests/isolation", *session.posargs)


@nox.session(tags=["lane3"])
def local(session: nox.Session) -> None:
    """Local models: the real llama-server with a model of the tests' own; kills, hangs, idle and full, none left at the end."""
    _pytest(session, "tests/local", "tests/phases/test_local_llm.py", *session.posargs)


@nox.session(tags=["lane1"])
def release(session: nox.Session) -> None:
    """Registry, signatures, bills of materials, the pipeline and its crashes."""
    _pytest(session, "tests/release", "--ignore=tests/release/test_repro.py", *session.posargs)


@nox.session(tags=["lane2"])
def doctor(session: nox.Session) -> None:
    """`invoke doctor` on machines with one fault each, made for real."""
    _pytest(session, "tests/doctor", *session.posargs)


@nox.session(tags=["lane3"])
def repro(session: nox.Session) -> None:
    """Rebuilds elsewhere give the same digests, and a difference is named."""
    _pytest(session, "tests/release/test_repro.py", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Checks that repeat one thing very often or under a heavy load: they take minutes and need a quiet machine."""
    _pytest(session, "tests/long", *session.posargs)


@nox.session
def cuda(session: nox.Session) -> None:
    """The targets cuda for one GPU architecture, and what holds of them without a GPU. Compiles for longer than 15 minutes
    where the build cache has nothing of it, so it is not part of the default run.
    """
    session.log(
        "compiles llama.cpp with CUDA, which takes more than 15 minutes where the build cache has nothing of it"
    )
    _pytest(session, "tests/cuda", *session.posargs)


def _pytest(session: nox.Session, *words: str, **options: Any) -> None:
    """Ctrl-C reaches the tests by themselves; they get a minute to take down what they started before nox ends them."""
    session.run("pytest", *words, interrupt_timeout=60, terminate_timeout=10, **options)


@contextmanager
def _unpacked(session: nox.Session, image: str) -> Iterator[Path]:
    """The root file system of a built production image, in a folder that everyone may read."""
    variables = _engine(session)
    # By its digest: whoever builds the same version beside us gives the name to another image.
    (built,) = json.loads(str(session.run("invoke", "build", "--image", image, "--json", silent=True, stderr=None)))

    def docker(*words: str) -> str:
        return str(session.run("docker", *words, env=variables, external=True, silent=True)).strip()

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        container = docker("create", built["digest"])
        try:
            docker("cp", f"{container}:/usr", f"{folder}/usr")
        finally:
            docker("rm", container)
        yield Path(folder)


def _engine(session: nox.Session) -> dict[str, str]:
    """Variables that lead the docker client to the engine, as a person would get them."""
    lines = session.run("invoke", "engine.env", silent=True)
    pairs = (
        line.removeprefix("export ").partition("=") for line in str(lines).splitlines() if line.startswith("export ")
    )
    found = {name: value.strip("'") for name, _, value in pairs}
    if not shutil.which("docker", path=found.get("PATH")):
        session.error("no docker client: run ./scripts/invoke engine.up and read what it says")
    return found
