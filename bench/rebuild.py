"""One changed line in src/llm_call: time to a new api prod image, and which layers are new.

.venv/bin/python -m bench.rebuild [RUNS]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import ROOT, engine_environment, seconds, show

BUILD = [sys.executable, "-m", "invoke", "build", "--image", "api"]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    env = engine_environment()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "copy")
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".shipyard", "secrets", ".env", "__pycache__")
        )
        seconds(BUILD, cwd=copy)
        before = layers(env)
        source = copy / "src/llm_call/__init__.py"
        times, peer = [], []
        for run in range(runs):
            source.write_text(source.read_text() + f"# {run}\n")
            times.append(seconds(BUILD, cwd=copy))
            source.write_text(source.read_text() + f"# {run} again\n")
            plain = ["docker", "build", "--quiet", "-f", "docker/api/Dockerfile", "-t", "bench-rebuild", "."]
            peer.append(seconds([*plain[:2], *contexts(), *plain[2:]], cwd=copy, env=env))
        show("invoke build after one changed line", times, "docker build", peer)
        after = layers(env)
        changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        print(f"layers: {len(after)}, changed: {changed}; sizes of the changed ones: {sizes(env, changed)} bytes")
    seconds([str(ROOT / "scripts/invoke"), "build", "--image", "api"])  # leave the real one behind


def contexts() -> list[str]:
    import shipyard

    project, engine = shipyard.config.load(ROOT), shipyard.engine.find()
    base = shipyard.bases.ensure(engine, project.base)
    bundle = shipyard.host.ca_bundle()
    secret = ["--secret", f"id=ca,src={bundle}"] if bundle else []
    return ["--build-context", f"{project.base.image}=docker-image://{base.reference}", *secret]


def layers(env: dict[str, str]) -> list[str]:
    found = json.loads(_docker(env, "image", "inspect", _reference()))
    return list(found[0]["RootFS"]["Layers"])


def sizes(env: dict[str, str], indexes: list[int]) -> list[int]:
    """Uncompressed bytes of some layers, from `docker history` (newest first; steps without a layer are empty)."""
    lines = _docker(env, "history", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", _reference()).splitlines()
    made = [line.split("\t") for line in reversed(lines)]
    with_layer = [int(size) for size, text in made if text.startswith(("COPY", "RUN", "WORKDIR"))]
    return [with_layer[index] for index in indexes]


def _reference() -> str:
    return f"llm-call-api:{(ROOT / 'VERSION').read_text().strip()}"


def _docker(env: dict[str, str], *words: str) -> str:
    return subprocess.run(["docker", *words], env=env, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
