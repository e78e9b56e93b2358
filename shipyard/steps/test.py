"""The image tests against the very bytes that will be published. Bytes that passed are not tested twice."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shipyard import console, images, loading, owned
from shipyard.artifacts import Artifact
from shipyard.errors import BuildFailed
from shipyard.loading import Loaded
from shipyard.run import run
from shipyard.world import Step, World

#: Says to tests/images which images they are to look at, instead of building some: JSON, digest by image.
GIVEN = "SHIPYARD_TEST_IMAGES"
#: What the kernel calls programs of another architecture that an emulator runs (binfmt_misc; qemu-user's names).
_EMULATORS = {"linux/arm64": "qemu-aarch64", "linux/amd64": "qemu-x86_64"}
_REGISTERED = Path("/proc/sys/fs/binfmt_misc")


def _done(world: World) -> str:
    facts = world.remembered("test")
    return f"these bytes passed: {facts.get('result', '')}" if facts else ""


def _run(world: World) -> Mapping[str, Any]:
    native, mark = images.native(world.engine), owned.mark(world.root)
    foreign = sorted({part.platform for each in world.artifacts for part in each.parts} - {native})
    results, untested, loaded = dict[str, str](), list[str](), list[Loaded]()
    for platform in (native, *foreign):
        if platform == native:
            these = [loading.load(world.engine, each, mark, native) for each in world.artifacts]
        elif emulated(platform):
            there = [each for each in world.artifacts if platform in {part.platform for part in each.parts}]
            these = [loading.load(world.engine, each, mark, native, platform) for each in there]
        else:
            untested.append(platform)
            console.info(
                f"{platform} is not tested: the kernel has no {_EMULATORS[platform]} (install qemu-user-static)"
            )
            continue
        loaded += these
        loading.sweep(world.engine, [_name(each) for each in world.artifacts], mark, [each.name for each in loaded])
        results[platform] = _tested(world, these, platform, mark)
    loading.unload(world.engine, loaded)  # those that failed stay, to be looked into
    summary = "; ".join(f"{platform}: {line}" for platform, line in results.items())
    return {"digests": world.digests, "result": summary, "tested": sorted(results), "untested": untested}


def _name(artifact: Artifact) -> str:
    return artifact.repository.rpartition("/")[2]


def _tested(world: World, loaded: Sequence[Loaded], platform: str, mark: str) -> str:
    """Test what was loaded, by digest. Raises EngineFailed when the engine has something else of it afterwards, whatever the
    tests said, and BuildFailed with what failed.
    """
    with loading.held(world.engine, loaded, mark):
        try:
            said = _pytest(world, {each.key: each.digest for each in loaded}, platform)
        except BuildFailed:
            loading.check(world.engine, loaded)  # a test that misses its image says nothing of the image
            raise
        loading.check(world.engine, loaded)
        return said


def emulated(platform: str, registered: Path = _REGISTERED) -> bool:
    """Whether the kernel runs programs of another platform by qemu-user."""
    try:
        return (registered / _EMULATORS[platform]).read_text().startswith("enabled")
    except OSError:
        return False


def _pytest(world: World, digests: Mapping[str, str], platform: str) -> str:
    """Run tests/images; its last line. Raises BuildFailed with what failed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    given = {GIVEN: json.dumps(_by_image(digests)), "SHIPYARD_TEST_PLATFORM": platform}
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


def _by_image(digests: Mapping[str, str]) -> dict[str, str]:
    """An image's production target by the image's name alone, the others as ``api-cuda``."""
    return {key.removesuffix("-prod"): digest for key, digest in digests.items()}


STEP = Step("test", _done, _run)
