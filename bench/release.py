"""A release of api and claude-proxy for two platforms: when only VERSION changed, again, verified, after one changed line.

.venv/bin/python -m bench.release [RUNS]
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import ROOT, seconds, show
from shipyard import signing_keys
from shipyard.commands import cosign
from shipyard.journal import Journal
from tests.support import registries

IMAGES = ("api", "claude-proxy")
#: The images' own tests are what a release may take longer for; here one that costs nothing stands for them.
_TEST = "def test_that_costs_nothing():\n    pass\n"


class Checkout:
    """A clone of what is committed, with these two images, a key of its own and a registry of its own."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.env = {**os.environ, "SHIPYARD_REGISTRY": registry}
        seconds(["git", "clone", "--quiet", str(ROOT), str(root)])
        declared = (root / "docker/images.toml").read_text().split("\n[image.")
        kept = [each for each in declared[1:] if each.partition("]")[0] in IMAGES]
        text = "\n[image.".join([declared[0], *kept])
        # The targets prod alone: one with CUDA is compiled for longer than everything else here takes.
        text = re.sub(r', "(local|cuda)"|, (local|cuda) = "[^"]*"|^(only|arguments) .*\n', "", text, flags=re.MULTILINE)
        (root / "docker/images.toml").write_text(text)
        for path in (root / "tests/images").glob("*.py"):
            path.unlink()
        (root / "tests/images/test_nothing.py").write_text(_TEST)
        (root / "changes/bench.misc.md").write_text("A benchmark.\n")
        for name, value in (("user.name", "Bench"), ("user.email", "bench@example.invalid")):
            self.git("config", name, value)
        self.invoke("signing.init")
        self.commit("Two images")

    def git(self, *words: str) -> None:
        seconds(["git", *words], cwd=self.root)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def invoke(self, *words: str) -> float:
        """Seconds of a verb."""
        return seconds(self.argv(*words), env=self.env, cwd=self.root)

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "invoke", "--search-root", str(self.root), *words]

    def release(self, *words: str) -> float:
        return self.invoke("release", "--skip-repro", "a benchmark", *words)

    def next(self) -> float:
        """A release for which nothing but VERSION, CHANGELOG.md and the commit are new."""
        version = (self.root / "VERSION").read_text().strip()
        (self.root / "changes").mkdir(exist_ok=True)  # git keeps no empty folder
        (self.root / "changes/bench.misc.md").write_text(f"What is new since {version}.\n")
        self.commit("One more")
        return self.release("--bump", "patch")

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "dist/release.json").read_text())
        return found

    def facts(self, step: str) -> dict[str, Any]:
        """What the journal of the newest release says of a step."""
        journal = Journal(self.root / f".shipyard/release/{self.document()['version']}.jsonl")
        return dict(journal.facts(step) or {})


def by_hand(root: Path, image: dict[str, Any]) -> float:
    """Seconds of what a stranger would type for one image: cosign, of signatures and of both kinds of attestations."""
    program, key = signing_keys.program(), root / "cosign.pub"
    index = f"{image['repository']}@{image['digest']}"
    parts = [f"{image['repository']}@{each['digest']}" for each in image["platforms"]]
    commands = (
        cosign.verify(program, key, [index, *parts]),
        cosign.verify_attestation(program, key, "cyclonedx", parts),
        cosign.verify_attestation(program, key, "slsaprovenance1", [index]),
    )
    return sum(seconds(command, env=cosign.environment(os.environ, root)) for command in commands)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as scratch, registries.running(Path(scratch, "registry")) as registry:
        checkout = Checkout(Path(scratch, "checkout"), registry.address)
        print(f"first release: {checkout.release():.1f} s")
        times, steps, again, by_version, by_image, peer = [], list[dict[str, float]](), [], [], [], []
        for _ in range(runs):
            times.append(checkout.next())
            steps.append({step["name"]: step["seconds"] for step in checkout.document()["steps"]})
            before = len(registry.writes())
            again.append(checkout.release())
            if len(registry.writes()) > before:
                sys.exit(f"the second run wrote: {registry.writes()[before:]}")
            document = checkout.document()
            by_version.append(checkout.invoke("verify", document["version"]))
            for image in document["images"]:
                reference = f"{image['repository']}@{image['digest']}"
                by_image.append(checkout.invoke("verify", reference))
                peer.append(by_hand(checkout.root, image))
        show("invoke release, only VERSION new, image tests apart", times)
        for name in steps[0]:
            print(f"    {name}: {statistics.median(each[name] for each in steps):.1f} s")
        show("the same again, no write to the registry", again)
        show("invoke verify VERSION, both images", by_version)
        show("invoke verify REFERENCE", by_image, "cosign by hand", peer)
        for name, path in (("api", "src/llm_call/__init__.py"), ("claude-proxy", "src/claude_proxy/__init__.py")):
            source = checkout.root / path
            source.write_text(source.read_text() + "# one line more\n")
            checkout.next()
            pushed = checkout.facts("push")
            print(
                f"one changed line of {name}: {pushed['bytes']} bytes in {pushed['blobs']} blobs pushed, both platforms"
            )


if __name__ == "__main__":
    main()
