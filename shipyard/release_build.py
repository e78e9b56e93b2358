"""The images of a release: all of them by one bake request into OCI layouts, the very bytes that are tested and pushed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from shipyard import (
    bases,
    console,
    debian_locks,
    failures,
    host,
    inputs,
    layers,
    linking,
    machine,
    owned,
    plans,
    signals,
)
from shipyard.artifacts import RELEASED, Artifact, Commit, Part
from shipyard.commands import bake
from shipyard.engine import Engine, api, lock
from shipyard.engine.types import home
from shipyard.errors import OverBudget, UnknownName
from shipyard.layouts import Layout
from shipyard.models import Base, Image, Job, Project
from shipyard.progress import Progress
from shipyard.run import run, watch

#: Beside the layout's own files: what it was built from.
_INPUTS = "inputs.json"
#: Where a request writes; its layouts move to their places when all of them are good.
_SCRATCH = ".building"


def jobs(project: Project, registry: str = "", names: Sequence[str] = ()) -> list[Job]:
    """What a release builds: every released target of these images, or of all, for all their platforms.

    The input hash leaves the base image out: where that is bootstrapped, it depends on today's mirror. Raises UnknownName.
    """
    if unknown := plans.unknown(project, names):
        raise UnknownName("\n".join(unknown))
    return [
        plans.job(project, image, target, image.platforms_of(target), None, registry)
        for image in project.images.values()
        for target in image.targets
        if target in RELEASED and (not names or image.name in names)
    ]


def build(
    project: Project,
    engine: Engine,
    commit: Commit,
    out: Path,
    registry: str = "",
    *,
    names: Sequence[str] = (),
    no_cache: bool = False,
    environment: Mapping[str, str] | None = None,
) -> tuple[Artifact, ...]:
    """The layouts of a release below ``out``; what is there already, whole and from the same inputs, is not built again.

    With ``no_cache`` every step runs again. ``environment`` is for buildx, instead of the engine's own. Raises LockStale,
    BuildFailed, OverBudget, DiskFull or EngineFailed; of a request that failed or was killed nothing is at a layout's place.
    """
    wanted = jobs(project, registry, names)
    made = {job.key: _inputs(project, job, commit) for job in wanted}
    missing = [job for job in wanted if no_cache or not is_built(out / job.key, made[job.key])]
    if missing:
        with lock("building images", home() / "build.lock"):
            base = bases.ensure(engine, project.base)
            console.step("building " + ", ".join(f"{job.key} ({', '.join(job.platforms)})" for job in missing))
            _warn_of_compiling(missing)
            scratch = out / _SCRATCH
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            with _fresh(engine, base) if no_cache else nullcontext(base) as chosen:
                _bake(project, engine, missing, chosen, commit, scratch, no_cache, environment)
            _hold_to_budgets(engine, missing, scratch)
            with signals.whole():
                for job in missing:
                    _adopt(scratch / job.key, out / job.key, made[job.key])
            shutil.rmtree(scratch)
    for job in wanted:
        if job not in missing:
            console.skip(f"{job.key}: built before from the same inputs")
    return tuple(artifact(job, out) for job in wanted)


def _warn_of_compiling(missing: Iterable[Job]) -> None:
    """A target that takes build arguments is compiled here: with the Dockerfile's own values, which may take hours."""
    for job in missing:
        if job.image.arguments.get(job.target):
            console.warn(
                f"{job.key} is compiled with the values of {job.image.dockerfile}, all architectures of GPUs among them; "
                "where the build cache has nothing of it, that takes hours (docs/gpu.md says how long)"
            )


def artifact(job: Job, out: Path) -> Artifact:
    """A built job, read from its layout. Raises BuildFailed when that is not there."""
    layout = Layout(out / job.key)
    repository, _, tag = job.reference.rpartition(":")
    return Artifact(job.image.name, job.target, repository, tag, layout.digest, layout.path, layout.parts())


def is_built(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a layout was made from these inputs and every byte of it is there; reads all of it."""
    try:
        known = json.loads((folder / _INPUTS).read_text())
    except (OSError, ValueError):
        return False
    if known != inputs:
        return False
    problems = Layout(folder).check()
    for problem in problems:
        console.warn(f"{problem}; building {folder.name} again")
    return not problems


def _inputs(project: Project, job: Job, commit: Commit) -> dict[str, Any]:
    """Everything that decides the bytes, apart from the base image and the builder."""
    return {
        "labels": bake.labels(project, job, commit.revision, commit.epoch),
        "target": job.target,
        "platforms": list(job.platforms),
        "epoch": commit.epoch,
    }


def _bake(
    project: Project,
    engine: Engine,
    wanted: Sequence[Job],
    base: Base,
    commit: Commit,
    scratch: Path,
    no_cache: bool,
    environment: Mapping[str, str] | None,
) -> None:
    again = {job.image.name: _uncached(project, job.image) for job in wanted} if no_cache else {}
    document = bake.document(
        project,
        wanted,
        base,
        revision=commit.revision,
        epoch=commit.epoch,
        again=again,
        secrets={"ca": bundle} if (bundle := host.ca_bundle()) else {},
        debian_lock="strict",
        layouts=scratch.resolve(),
    )
    variables = bake.environment(engine.environment() if environment is None else environment)
    with Progress([job.key for job in wanted]) as progress:
        status = watch(bake.argv(engine.docker), progress.line, env=variables, cwd=project.root, text=document)
    if status:
        images = [job.image for job in wanted]
        raise debian_locks.stale(project, engine, base, images, progress) or failures.explain(engine, progress, wanted)


@contextmanager
def _fresh(engine: Engine, base: Base) -> Iterator[Base]:
    """The base image with a file that no step reads: whatever stands on it runs again.

    BuildKit's own no-cache would throw away the cache mounts as well, and in them the only copies of locked packages
    that left the mirror.
    """
    nonce, mine = secrets.token_hex(16), f"{bases.REPOSITORY}:fresh-{owned.mark(home())}-"
    found = replace(base, reference=mine + nonce)
    text = f"FROM {base.reference}\nCOPY <<END /etc/shipyard-fresh\n{nonce}\nEND\n"
    variables = bake.environment(engine.environment())
    # The lock of this machine's builds is held: what has its mark was left by one that was killed.
    left = run([engine.docker, "image", "ls", "--filter", f"reference={mine}*", "--format", "{{.Tag}}"], env=variables)
    if names := [f"{bases.REPOSITORY}:{tag}" for tag in left.stdout.split()]:
        run([engine.docker, "image", "rm", *names], env=variables, check=False)
    run([engine.docker, "buildx", "build", "--load", "--tag", found.reference, "-"], env=variables, text=text)
    try:
        yield found
    finally:
        run([engine.docker, "image", "rm", found.reference], env=variables, check=False)


def _uncached(project: Project, image: Image) -> list[str]:
    """The stages that have no cache mount, and can be built without cache as they are. The others stand on the base."""
    stages: dict[str, bool] = {}
    name = ""
    for instruction in inputs.instructions((project.root / image.dockerfile).read_text()):
        words = instruction.split()
        if words[0].upper() == "FROM":
            name = words[-1] if words[-2].upper() == "AS" else str(len(stages))
            stages[name] = True
        elif "type=cache" in instruction:
            stages[name] = False
    return [stage for stage, plain in stages.items() if plain]


def _adopt(scratch: Path, folder: Path, inputs: Mapping[str, Any]) -> None:
    """Move a layout to its place; one that was there is gone from the first moment on."""
    shutil.rmtree(scratch / "ingest", ignore_errors=True)  # where buildx writes before it knows a digest
    machine.replace(scratch / _INPUTS, json.dumps(inputs, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _hold_to_budgets(engine: Engine, wanted: Iterable[Job], scratch: Path) -> None:
    problems = []
    for job in wanted:
        limit = job.image.budget.get(job.target)
        if limit is None:
            continue
        layout = Layout(scratch / job.key)
        blobs = [layout.blob(layer) for layer in _own(engine, layout.parts()).layers]
        if twice := linking.twice(layers.names(blobs)) if job.target == "cuda" else []:
            problems.append(f"{job.key} has CUDA libraries twice: {', '.join(twice)}; one copy is enough")
        if (total := sum(map(layers.size, blobs))) > limit:
            problems.append(
                f"{job.key} is {console.megabytes(total)}, over its budget of {console.megabytes(limit)} "
                f"(docker/images.toml: image.{job.image.name}.budget.{job.target}). Its biggest files:\n"
                + layers.biggest(blobs)
            )
    if problems:
        raise OverBudget("\n".join(problems))


def _own(engine: Engine, parts: Sequence[Part]) -> Part:
    """The platform whose size stands for the image: the engine's own when it is among those built."""
    answer: dict[str, Any] = api.get(engine.host, "/version") or {}
    return next((part for part in parts if part.platform == f"linux/{answer.get('Arch', 'amd64')}"), parts[0])
