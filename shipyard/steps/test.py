"""The image tests against the very bytes that will be published. Bytes that passed are not tested twice."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipyard import console, images, loading
from shipyard.errors import BuildFailed
from shipyard.run import run
from shipyard.world import Step, World

#: Says to tests/images which images they are to look at, instead of building some: JSON, reference by image.
GIVEN = "SHIPYARD_TEST_IMAGES"
#: What the kernel calls programs of another architecture that an emulator runs (binfmt_misc; qemu-user's names).
_EMULATORS = {"linux/arm64": "qemu-aarch64", "linux/amd64": "qemu-x86_64"}
_REGISTERED = Path("/proc/sys/fs/binfmt_misc")


def _done(world: World) -> str:
    facts = world.remembered("test")
    return f"these bytes passed: {facts.get('result', '')}" if facts else ""


def _run(world: World) -> Mapping[str, Any]:
    native = images.native(world.engine)
    foreign = sorted({part.platform for each in world.artifacts for part in each.parts} - {native})
    given = {each.key: loading.load(world.engine, each) for each in world.artifacts}
    results, untested = {native: _pytest(world, given, native)}, []
    loaded = [*given.values()]
    for platform in foreign:
        if emulated(platform):
            there = [each for each in world.artifacts if platform in {part.platform for part in each.parts}]
            given = {each.key: loading.load(world.engine, each, platform) for each in there}
            loaded += given.values()
            results[platform] = _pytest(world, given, platform)
        else:
            untested.append(platform)
            console.info(
                f"{platform} is not tested: the kernel has no {_EMULATORS[platform]} (install qemu-user-static)"
            )
    loading.unload(world.engine, loaded)  # those that failed stay, to be looked into
    summary = "; ".join(f"{platform}: {line}" for platform, line in results.items())
    return {"digests": world.digests, "result": summary, "tested": sorted(results), "untested": untested}


def emulated(platform: str, registered: Path = _REGISTERED) -> bool:
    """Whether the kernel runs programs of another platform by qemu-user."""
    try:
        return (registered / _EMULATORS[platform]).read_text().startswith("enabled")
    except OSError:
        return False


def _pytest(world: World, references: Mapping[str, str], platform: str) -> str:
    """Run tests/images; its last line. Raises BuildFailed with what failed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    given = {GIVEN: json.dumps(_by_image(references)), "SHIPYARD_TEST_PLATFORM": platform}
    argv = [sys.executable, "-m", "pytest", "tests/images", "--quiet", "--no-header", "--tb=short"]
    done = run(argv, env={**kept, **given}, cwd=world.root, check=False)
    name = f"test-{platform.replace('/', '-')}.log"
    (world.folder / name).write_text(done.stdout + done.stderr)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["pytest says nothing"]
    if done.status:
        tail = "\n".join("    " + line for line in lines[-15:])
        msg = f"the images' tests fail on {platform}; nothing was pushed. The end of {world.folder / name}:\n{tail}"
        raise BuildFailed(msg)
    console.info(f"{platform}: {lines[-1].strip('= ')}")
    return lines[-1].strip("= ")


def _by_image(references: Mapping[str, str]) -> dict[str, str]:
    """An image's production target by the image's name alone, the others as ``api-cuda``."""
    return {key.removesuffix("-prod"): reference for key, reference in references.items()}


STEP = Step("test", _done, _run)
