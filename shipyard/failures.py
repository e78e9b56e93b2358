"""Why a bake request failed, as an error that says where and what to try."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from shipyard import console
from shipyard.engine import Engine, api
from shipyard.errors import BuildFailed, DiskFull, EngineFailed, ShipyardError
from shipyard.models import Job
from shipyard.progress import Progress


def explain(engine: Engine, progress: Progress, jobs: Iterable[Job]) -> ShipyardError:
    """BuildFailed with the image, the Dockerfile line and the last output; or DiskFull, or EngineFailed."""
    text = "\n".join(line for line in progress.other if line.strip())
    broken = progress.failed()
    said = " ".join((text, broken.error if broken else "", *(broken.log if broken else ())))
    if "no space left on device" in said.lower():
        return DiskFull(
            f"no space left for the build. {_disk(engine)}\n"
            "Free some (`docker system df` shows what the engine holds, `docker builder prune` empties its cache) and build again."
        )
    if api.version(engine.host) is None or any(
        sign in said for sign in ("error reading from server", "transport is closing")
    ):
        return EngineFailed(
            f"the Docker engine at {engine.host} went away during the build; images built before are untouched. "
            "Start it (`invoke engine.up`) and build again."
        )
    owner = next((job for job in jobs if broken and job.key == broken.target), None)
    title = f"{owner.reference} ({owner.image.dockerfile}, target {owner.target})" if owner else "the build request"
    if owner:  # BuildKit names the file alone, not its folder
        text = re.sub(
            rf"^{Path(owner.image.dockerfile).name}:(\d+)$", rf"{owner.image.dockerfile}:\1", text, flags=re.MULTILINE
        )
    output = "\n".join(f"    {line}" for line in (broken.log if broken else ()))
    parts = [f"{title} failed" + (f" at: {broken.text}" if broken else ""), output, text[-3000:]]
    return BuildFailed("\n".join(part for part in parts if part))


def _disk(engine: Engine) -> str:
    root = (api.get(engine.host, "/info") or {}).get("DockerRootDir", "/") if api.version(engine.host) else "/"
    while not Path(root).exists():
        root = str(Path(root).parent)
    usage = shutil.disk_usage(root)
    return f"{root} has {console.megabytes(usage.free)} free of {console.megabytes(usage.total)}."
