"""The proofs. `nox` runs all of them, `nox -s unit` one; what follows `--` goes to pytest."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
# Everything is in the environment that ./scripts/nox made from requirements/toolkit.txt, with hashes.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "unit", "services", "images", "cli", "engine", "phases"]
nox.options.stop_on_first_error = False

# Also when nox was called by its path, without the environment being activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))

ROOT = Path(__file__).parent
OVERLAYS = ("dev", "prod")


@nox.session
def lint(session: nox.Session) -> None:
    """Style of Python, Dockerfiles and shell scripts; every overlay parses by itself."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("hadolint", *map(str, sorted(ROOT.glob("docker/*/Dockerfile"))))
    scripts = ["scripts/invoke", "scripts/nox", "scripts/environment.sh", ".ci/run"]
    session.run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *scripts)
    variables = _engine(session)
    for overlay in OVERLAYS:
        files = [f"--file=compose/{name}.yaml" for name in ("compose", overlay)]
        session.run("docker", "compose", *files, "config", "--quiet", env=variables, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Types of the toolkit and the services, strict."""
    session.run("mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Pure logic: no engine, no processes, no sockets."""
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session
def services(session: nox.Session) -> None:
    """The services as real processes on 127.0.0.1."""
    session.run("pytest", "tests/services", "-m", "not cli", *session.posargs)


@nox.session
def cli(session: nox.Session) -> None:
    """The Claude proxy with the real CLI: the binary of the built image, run on this machine."""
    variables = _engine(session)
    session.run("invoke", "build", "--image", "claude-proxy")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        reference = f"llm-call-claude-proxy:{(ROOT / 'VERSION').read_text().strip()}"
        container = str(session.run("docker", "create", reference, env=variables, external=True, silent=True)).strip()
        session.run(
            "docker", "cp", f"{container}:/usr/local/bin/claude", folder, env=variables, external=True, silent=True
        )
        session.run("docker", "rm", container, env=variables, external=True, silent=True)
        session.run("pytest", "tests/services", "-m", "cli", *session.posargs, env={"CLAUDE_CLI": f"{folder}/claude"})


@nox.session
def engine(session: nox.Session) -> None:
    """The embedded engine: races, crashes, full disks, builds that break; in network namespaces of its own."""
    session.run("pytest", "tests/engine", *session.posargs)


@nox.session
def images(session: nox.Session) -> None:
    """Every built image, started hardened."""
    session.run("pytest", "tests/images", *session.posargs)


@nox.session
def phases(session: nox.Session) -> None:
    """Each stack from outside: a request through every service and the real CLI."""
    session.run("pytest", "tests/phases", *session.posargs)


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
