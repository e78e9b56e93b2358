"""Git clones with two tiny images, a key of their own and their own release: what a user does with ./scripts/invoke."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import shipyard
from shipyard import attachments, channels
from shipyard.commands.cosign import SIGNATURE
from shipyard.errors import RegistryFailed
from shipyard.journal import Journal
from shipyard.registry import Registry
from shipyard.world import Options
from tests.support.dispositions import by_default
from tests.support.service import wait_until
from tests.support.stack import ROOT

IMAGES = ("tiny", "small")
VERSION = "1.2.3"
_TOOLKIT = ("shipyard", "verbs", "tasks.py", "pyproject.toml", ".gitignore")
_DECLARED = """\
source   = "https://example.invalid/tiny"
licenses = "Apache-2.0"

[base]
image = "debian:trixie-slim"
suite = "trixie"
"""
_IMAGE = """
[image.{name}]
title      = "{name}"
repository = "llm-call-test-{name}"
context    = "."
dockerfile = "docker/{name}/Dockerfile"
targets    = ["prod"]
platforms  = ["linux/amd64", "linux/arm64"]
budget     = {{ prod = "1MB" }}
"""
#: Careful with modes and times, so that a rebuild elsewhere gives the same bytes.
_DOCKERFILE = """\
FROM --platform=$BUILDPLATFORM debian:trixie-slim AS builder
RUN --mount=type=bind,source=docker/{name}/content,target=/source mkdir -m 755 /layer && \\
    install -m 755 /source /layer/content && find /layer -exec touch --date=@315532800 {{}} +
FROM scratch AS prod
COPY --link --from=builder /layer /
ENTRYPOINT ["/content"]
"""
#: Reads the image that it is given by its digest, and a file in it; "broken" is what a test breaks.
_TEST = """\
import io, json, os, tarfile

import docker
import pytest

import shipyard

GIVEN = json.loads(os.environ["SHIPYARD_TEST_IMAGES"])


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_content(name):
    client = docker.DockerClient(base_url=shipyard.engine.find().host)
    container = client.api.create_container(GIVEN[name], command=["none"])
    try:
        data = b"".join(client.api.get_archive(container["Id"], "/content")[0])
    finally:
        client.api.remove_container(container["Id"])
        client.close()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert b"broken" not in archive.extractfile("content").read()
"""


class Clone:
    """A clone of a small project, released with the toolkit of this checkout to a registry of the test's own."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root, self.registry = root, registry
        self.extra: dict[str, str] = {}
        root.mkdir(parents=True)
        for name in _TOOLKIT:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, root / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}))
        self.write("docker/images.toml", _DECLARED + "".join(_IMAGE.format(name=name) for name in IMAGES))
        for name in IMAGES:
            self.write(f"docker/{name}/Dockerfile", _DOCKERFILE.format(name=name))
            self.write(f"docker/{name}/content", f"{name}\n")
        self.write("tests/images/test_tiny.py", _TEST)
        self.write("VERSION", VERSION + "\n")
        self.write("changes/first.feature.md", "The first release.\n")
        shipyard.signing_keys.init(shipyard.config.load(root))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Test")
        self.git("config", "user.email", "test@example.invalid")
        self.commit("A tiny project")

    def write(self, path: str, text: str) -> None:
        """Write a file of the clone."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def git(self, *words: str) -> str:
        """Git's stdout."""
        done = subprocess.run(["git", *words], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """Commit everything; the revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A verb as a process of its own group."""
        argv = [sys.executable, "-m", "invoke", "--search-root", str(self.root), *words]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GIT_"))}
        environment = {**kept, "SHIPYARD_REGISTRY": self.registry, **self.extra}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
        return subprocess.Popen(by_default(argv), cwd=self.root, env=environment, process_group=0, **pipes)

    def invoke(self, *words: str, status: int = 0, seconds: float = 180) -> str:
        """Run a verb to its end, hold it to its exit status; what it said."""
        process = self.start(*words)
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException:  # Ctrl-C of the tests, too, leaves nothing behind
            kill(process)
            raise
        assert process.returncode == status, f"invoke {' '.join(words)}: {process.returncode}\n{said}"
        return said

    def release(self, *words: str, status: int = 0) -> str:
        """`invoke release`."""
        return self.invoke("release", *words, status=status)

    def killed_when(self, step: str, state: str, *words: str) -> None:
        """`invoke release`, killed (-9, with nothing after it) as soon as the journal has a line."""
        before = len(self.lines(step, state))
        process = self.start("release", *words, stdout=subprocess.DEVNULL)
        try:
            wait_until(
                lambda: len(self.lines(step, state)) > before or process.poll() is not None, f"{step} {state}", 120
            )
        finally:
            kill(process)

    @property
    def version(self) -> str:
        """What VERSION says."""
        return (self.root / "VERSION").read_text().strip()

    def journal(self, version: str = "") -> Journal:
        """The journal of a version."""
        return Journal(self.root / f".shipyard/release/{version or self.version}.jsonl")

    def lines(self, step: str, state: str) -> list[Any]:
        """Lines of any version's journal about a step."""
        paths = sorted((self.root / ".shipyard/release").glob("*.jsonl"))
        found = [entry for path in paths for entry in Journal(path).entries()]
        return [entry for entry in found if (entry.step, entry.state) == (step, state)]

    def twin(self, root: Path, registry: str) -> Clone:
        """Another clone of the same commit with the same key, released to another registry."""
        subprocess.run(["git", "clone", "--quiet", str(self.root), str(root)], check=True)
        shutil.copytree(self.root / "secrets", root / "secrets")
        found = object.__new__(Clone)
        found.root, found.registry, found.extra = root, registry, {}
        found.git("config", "user.name", "Test")
        found.git("config", "user.email", "test@example.invalid")
        return found

    def options(self, **changed: Any) -> Options:
        """What `invoke release` would be asked, for a test that calls the library itself."""
        return Options(**{"registry": self.registry, **changed})

    def here(self, **changed: Any) -> Any:
        """A release in this process."""
        project = shipyard.config.load(self.root)
        return shipyard.pipeline.release(project, shipyard.engine.find, self.options(**changed))

    def public(self) -> dict[str, str]:
        """Every tag that a person would pull, with the digest that it names."""
        client = Registry(self.registry)
        return {
            f"{path}:{tag}": client.head(path, tag) or ""
            for path in (f"llm-call-test-{name}" for name in IMAGES)
            for tag in client.tags(path)
            if not tag.startswith("sha256-") and tag != channels.TAG
        }

    def attached(self) -> dict[str, int]:
        """How many statements of each kind are attached to each digest that the release names."""
        client, found = Registry(self.registry), dict[str, int]()
        for image in self.document()["images"]:
            path = image["repository"].partition("/")[2]
            for digest in (image["digest"], *(each["digest"] for each in image["platforms"])):
                for each in attachments.find(client, path, digest):
                    kind = each.statement.kind if each.statement else each.problem
                    found[f"{path} {digest} {kind}"] = found.get(f"{path} {digest} {kind}", 0) + 1
        return found

    def state(self) -> dict[str, Any]:
        """What a release leaves to the world, without times, its registry's address and the signer's dice."""
        document = self.document()
        for name in ("created", "previous", "verify"):
            document.pop(name)
        document["steps"] = [step["name"] for step in document["steps"]]
        told = json.loads(json.dumps(document).replace(self.registry, "REGISTRY"))
        tag = self.git("rev-parse", f"v{self.version}^{{commit}}")
        dirty = self.git("status", "--porcelain")
        return {"public": self.public(), "attached": self.attached(), "told": told, "tag": tag, "dirty": dirty}

    def document(self) -> dict[str, Any]:
        """dist/release.json."""
        found: dict[str, Any] = json.loads((self.root / "dist/release.json").read_text())
        return found


class Watcher:
    """Looks at the public tags again and again: when one names another digest, that must carry a signature already."""

    def __init__(self, registry: str) -> None:
        self._client, self._over = Registry(registry, patience=0.0), threading.Event()
        self.looks, self.seen, self._signed = 0, set[str](), set[tuple[str, str]]()
        self.unsigned: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):  # a tag that came too early would stay for seconds
            with suppress(RegistryFailed):  # it is restarted by some tests
                for name in IMAGES:
                    self._look(f"llm-call-test-{name}")
                self.looks += 1

    def _look(self, path: str) -> None:
        for tag in self._client.tags(path):
            no_image = tag.startswith("sha256-") or tag == channels.TAG
            digest = None if no_image else self._client.head(path, tag)
            if digest is None:
                continue
            self.seen.add(tag)
            if (path, digest) in self._signed:
                continue
            found = attachments.find(self._client, path, digest)
            if problems := [each.problem for each in found if each.problem]:
                raise RegistryFailed("; ".join(problems))  # killed between two reads, and up again already
            if SIGNATURE in {each.statement.kind for each in found if each.statement}:
                self._signed.add((path, digest))
            else:
                self.unsigned.append(f"{path}:{tag} {digest}")


def kill(process: subprocess.Popen[str]) -> None:
    """End a verb as a crash does, and wait until what it started is gone too."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
