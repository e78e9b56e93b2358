"""Building images: skip what is up to date, build the rest in one bake request, hold each to its budget."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shipyard import bases, console, debian_locks, failures, host, outdated, plans, remembered, signals, sizes
from shipyard.commands import bake
from shipyard.engine import Engine, api, lock
from shipyard.engine.types import home
from shipyard.errors import ConfigError, EngineFailed, LockStale, OverBudget
from shipyard.models import (
    BuildResult,
    Image,
    Job,
    Project,
)
from shipyard.progress import Progress
from shipyard.run import watch


@dataclass(frozen=True)
class Request:
    """What the user asked ``build`` for. ``platform`` is a comma-separated list, ``all`` or empty for the native one;
    ``references`` asks for exactly those of them that are ours, instead.
    """

    images: tuple[str, ...] = ()
    target: str = "prod"
    platform: str = ""
    no_cache: bool = False
    registry: str = ""
    references: tuple[str, ...] = ()


def build(project: Project, engine: Engine, request: Request) -> list[BuildResult]:
    """Make every requested image current. Raises BuildFailed, OverBudget, DiskFull or EngineFailed; earlier images stay.

    The digests of the result are those that were found current, or built, here: others may give the names to other images
    at any moment, so what is to be these images is to be started by digest.
    """
    jobs = plan(project, engine, request)
    there = _look(project, engine, jobs, request)
    begin = time.monotonic()
    seconds: dict[str, float] = {}
    if any(each.reason for each in there.values()):
        # One build at a time in a checkout, whoever starts it: they share the candidates. And one on a machine: the second
        # often finds its work done.
        with (
            lock("building images", project.state / "build.lock"),
            lock("building images", home() / "build.lock"),
        ):
            base = bases.ensure(engine, project.base)
            jobs = plan(project, engine, request)  # a base that had to be made anew changes what is current
            there = _look(project, engine, jobs, request)
            wanted = [job for job in jobs if there[job.key].reason]
            if wanted:
                named = ", ".join(f"{job.reference} ({there[job.key].reason})" for job in wanted)
                console.step(f"building {named}")
                seconds = _bake(project, engine, wanted, base, request)
                for key, made in _adopt(engine, wanted).items():
                    there[key] = _Found(made, there[key].reason)
    _name(engine, {job.reference: there[job.key].digest for job in jobs if there[job.key].unnamed})
    remembered.keep_built(project, {job.reference: there[job.key].digest for job in jobs})
    results = [_result(engine, job, there[job.key], seconds.get(job.key, 0.0)) for job in jobs]
    _report(results, time.monotonic() - begin)
    return results


@dataclass(frozen=True)
class _Found:
    """What the engine has for a job at one moment: a digest, and why it has to be built; empty when it has not.

    ``unnamed`` tells that the job's reference is an image of other inputs.
    """

    digest: str
    reason: str
    unnamed: bool = False


def _look(project: Project, engine: Engine, jobs: Iterable[Job], request: Request) -> dict[str, _Found]:
    """What there is of each job, by its key: one look at each, so that digest and reason are about the same image.

    Ours comes first, if it is there: another checkout may have given the reference to an image of its own, and containers
    that run would be replaced for that.
    """
    ours, found = remembered.built(project), dict[str, _Found]()
    for job in jobs:
        named = api.image(engine.host, job.reference)
        reason = outdated.reason(named, job, no_cache=request.no_cache)
        found[job.key] = _Found(str(named["Id"]) if named else "", reason)
        if (digest := ours.get(job.reference, "")) and digest != found[job.key].digest:
            earlier = api.image(engine.host, digest)
            if earlier and not outdated.reason(earlier, job, no_cache=request.no_cache):
                found[job.key] = _Found(digest, "", unnamed=bool(reason))
    return found


def _name(engine: Engine, digests: Mapping[str, str]) -> None:
    """Give references to images, all of them or none. Raises EngineFailed."""
    if digests:
        with _naming(engine) as client:
            for reference, digest in digests.items():
                _tag(client, reference, digest)


@contextmanager
def _naming(engine: Engine) -> Iterator[Any]:
    """A client for a block in which references change, which no signal cuts short. Raises EngineFailed."""
    import docker

    client = docker.DockerClient(base_url=engine.host)
    try:
        with signals.whole():
            yield client
    except docker.errors.APIError as failed:
        msg = f"{engine.host} could not name what it built: {failed.explanation or failed}"
        raise EngineFailed(msg) from failed
    finally:
        client.close()


def _tag(client: Any, reference: str, digest: str) -> None:
    repository, _, tag = reference.rpartition(":")
    client.api.tag(digest, repository, tag)


def show(results: list[BuildResult], *, json: bool) -> None:
    """The one document of a ``--json`` build; without it everything was said while building."""
    if json:
        console.document(results)


def plan(project: Project, engine: Engine, request: Request) -> list[Job]:
    """The jobs of a request, with their input hashes. Raises ConfigError for build arguments that cannot be."""
    chosen = (
        plans.named(project, request.references)
        if request.references
        else plans.select(project, request.images, request.target)
    )
    if request.references and not chosen:
        return []  # others made them all, such as a registry's
    given = {name: value for image, target in chosen for name, value in _arguments(image, target).items()}
    if wrong := plans.faults(given):
        raise ConfigError(wrong)
    wanted = plans.platforms(chosen, request.platform, native(engine))
    base = bases.remembered(engine, project.base)
    return [
        plans.job(project, image, target, wanted, base, request.registry, _arguments(image, target))
        for image, target in chosen
    ]


def _arguments(image: Image, target: str) -> dict[str, str]:
    """The build arguments of a target that the environment has a value for."""
    return {name: value for name in image.arguments.get(target, ()) if (value := os.environ.get(name))}


def native(engine: Engine) -> str:
    """The engine's own platform, such as ``linux/amd64``."""
    answer: dict[str, Any] = api.get(engine.host, "/version") or {}
    return f"linux/{answer.get('Arch', 'amd64')}"


def staleness(engine: Engine, job: Job, *, no_cache: bool = False) -> str:
    """Why an image has to be built; empty when the one that is there was made from the same inputs."""
    return outdated.reason(api.image(engine.host, job.reference), job, no_cache=no_cache)


def why(project: Project, engine: Engine, request: Request) -> dict[str, list[str]]:
    """For each image the build arguments and files that differ from those it was built from; empty lists when it is current."""
    found: dict[str, list[str]] = {}
    for job in plan(project, engine, request):
        image = api.image(engine.host, job.reference)
        labels, reason = outdated.labels_of(image), outdated.reason(image, job)
        found[job.reference] = (outdated.changes(labels, job) if labels else []) or ([reason] if reason else [])
    return found


def size(project: Project, engine: Engine, request: Request) -> None:
    """Show what each built image weighs, what it may weigh, and its biggest files; one of other inputs is said to be that."""
    for job in plan(project, engine, request):
        image = api.image(engine.host, job.reference)
        if not image:
            console.warn(f"{job.reference} is not built; `invoke build --image {job.image.name} --target {job.target}`")
            continue
        if reason := outdated.reason(image, job):
            console.warn(
                f"{job.reference} is not what this checkout would build ({reason}); another one's, or an older one"
            )
        inventory = sizes.measure(engine, job.reference, str(image["Id"]), native(engine))
        limit = job.image.budget.get(job.target)
        allowed = f" of {console.megabytes(limit)}" if limit else ""
        console.result(f"{job.reference}  {console.megabytes(inventory.total)}{allowed}\n{sizes.listing(inventory)}")


def digest(engine: Engine, reference: str) -> str:
    """The digest (of the index or manifest) that a reference has in the engine's store; empty when it is not there."""
    found = api.image(engine.host, reference)
    return str(found["Id"]) if found else ""


def _bake(project: Project, engine: Engine, jobs: Sequence[Job], base: Any, request: Request) -> dict[str, float]:
    """Build from the locked Debian packages, as a release does; where some are gone, say so and take the current ones."""
    try:
        return _request(project, engine, jobs, base, request, "strict")
    except LockStale as stale:
        console.warn(f"{stale}\nThis build goes on with the versions of today; a release would not.")
        return _request(project, engine, jobs, base, request, "prefer")


def _request(
    project: Project, engine: Engine, jobs: Sequence[Job], base: Any, request: Request, debian_lock: str
) -> dict[str, float]:
    revision, epoch = host.revision(project.root)
    document = bake.document(
        project,
        jobs,
        base,
        revision=revision,
        epoch=epoch,
        no_cache=request.no_cache,
        secrets={"ca": bundle} if (bundle := host.ca_bundle()) else {},
        debian_lock=debian_lock,
    )
    with Progress([job.key for job in jobs]) as progress:
        environment = bake.environment(engine.environment())
        status = watch(bake.argv(engine.docker), progress.line, env=environment, cwd=project.root, text=document)
    if status:
        stale = debian_locks.stale(project, engine, base, [job.image for job in jobs], progress)
        raise stale or failures.explain(engine, progress, jobs)
    return progress.finished


def _adopt(engine: Engine, jobs: Sequence[Job]) -> dict[str, str]:
    """Give candidates their references, or none of them when one is over budget: what was there before then stays.

    Returns the digest of each by the job's key: what was measured and named, whatever the names are given to later.
    """
    made = {job.key: digest(engine, job.candidate) for job in jobs}
    problems = [problem for job in jobs for problem in _problems(engine, job, made[job.key])]
    with _naming(engine) as client:  # all of them get their names, or none does
        for job in jobs:
            if not problems:
                _tag(client, job.reference, made[job.key])
            client.api.remove_image(job.candidate, noprune=True)
    if problems:
        raise OverBudget("\n".join(problems))
    return made


def _problems(engine: Engine, job: Job, made: str) -> Iterator[str]:
    """Why an image may not have its name: it is over its budget, or holds a library of CUDA's twice."""
    limit = job.image.budget.get(job.target)
    if limit is None:
        return
    inventory = sizes.measure(engine, job.candidate, made, _one_platform(engine, job))
    if inventory.total > limit:
        yield (
            f"{job.reference} is {console.megabytes(inventory.total)}, over its budget of {console.megabytes(limit)} "
            f"(docker/images.toml: image.{job.image.name}.budget.{job.target}). Its biggest files:\n{sizes.listing(inventory)}"
        )
    if inventory.twice:
        yield f"{job.reference} has CUDA libraries twice: {', '.join(inventory.twice)}; one copy is enough"


def _one_platform(engine: Engine, job: Job) -> str:
    """The platform whose size stands for the image: the engine's own when it is among those built."""
    own = native(engine)
    return own if own in job.platforms else job.platforms[0]


def _result(engine: Engine, job: Job, found: _Found, seconds: float) -> BuildResult:
    size = (
        sizes.known(found.digest)
        or sizes.measure(engine, job.reference, found.digest, _one_platform(engine, job)).total
    )
    return BuildResult(
        name=job.image.name,
        target=job.target,
        platform=",".join(job.platforms),
        reference=job.reference,
        digest=found.digest,
        size=size,
        status="built" if found.reason else "skipped",
        reason=found.reason or "up to date",
        seconds=round(seconds, 2),
    )


def _report(results: Iterable[BuildResult], seconds: float) -> None:
    for result in results:
        if result.status == "skipped":
            console.skip(f"{result.reference}: {result.reason}, not built ({result.digest[:19]})")
        else:
            size = console.megabytes(result.size)
            console.step(f"built {result.reference}  {size}  {result.digest[:19]}  ({result.seconds:.1f} s)")
    if any(result.status == "built" for result in results):
        console.step(f"done in {seconds:.1f} s")
