"""A release, step by step: ask the world, write the journal, run what is left. Killed anywhere, the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from shipyard import console, lease, local_registry, release_page, signals, signing_keys, source, tags, versions
from shipyard.engine import Engine
from shipyard.errors import RegistryFailed, ShipyardError
from shipyard.models import Project
from shipyard.steps import attest, build, bump, preflight, promote, push, repro, sbom, sign, test, verify
from shipyard.world import Options, Step, World, lease_of

#: Seconds before a step is tried again whose registry gave answers that are of no use, and seconds after which none is.
PAUSES, PATIENCE = (1.0, 2.0, 4.0), 30.0
STEPS: tuple[Step, ...] = (
    preflight.STEP,
    bump.STEP,
    build.STEP,
    test.STEP,
    repro.STEP,
    sbom.STEP,
    push.STEP,
    sign.STEP,
    attest.STEP,
    verify.STEP,
    promote.STEP,
)


def release(project: Project, engine: Callable[[], Engine], options: Options) -> Mapping[str, Any]:
    """Take a release to the step ``options.until``; returns the document of dist/release.json, or the plan of a dry run.

    Raises ReleaseBusy, and what the steps raise; what was done stays, and the same command goes on from there.
    """
    source.repository(project.root)
    if options.dry_run:
        return plan(World(project, options, engine))
    begin = time.monotonic()
    with lease.held(lease_of(project), "invoke release") as held:
        if options.registry == local_registry.address() and local_registry.status().state != "running":
            local_registry.up()
        world = World(project, options, engine, held)
        steps = STEPS[: [step.name for step in STEPS].index(options.until) + 1]
        # Preflight alone looks at all that a whole release would need.
        asked = STEPS if options.until == preflight.STEP.name else steps
        settled = _ask(world, asked)
        world.pending = tuple(step.name for step in asked if step.name not in settled)
        _take_all(world, steps, settled)
    console.step(f"{world.version} has reached {options.until} ({time.monotonic() - begin:.1f} s)")
    if options.until != "promote":
        return {"version": world.version, "digests": world.digests}
    return release_page.earlier(world.root / "dist") or {}


def _ask(world: World, steps: Sequence[Step]) -> dict[str, str]:
    """Why each step that is done is done, before anything is begun; what cannot be asked yet is not done."""
    settled: dict[str, str] = {}
    for step in steps[1:]:
        try:
            if reason := step.done(world):
                settled[step.name] = reason
        except ShipyardError:
            break  # preflight says what is wrong
    if not {"push", "sign", "attest", "promote"} <= settled.keys():
        settled.pop("verify", None)
    return settled


def _take_all(world: World, steps: Sequence[Step], settled: Mapping[str, str]) -> None:
    done = list[str]()
    try:
        for number, step in enumerate(steps, 1):
            _take(world, step, f"{number}/{len(steps)}", settled.get(step.name, ""))
            done.append(step.name)
    except signals.Stopped:
        left = ", ".join(step.name for step in steps[len(done) :])
        console.info(f"done: {', '.join(done) or 'nothing'}; left: {left or 'nothing'}")
        raise


def _take(world: World, step: Step, number: str, settled: str) -> None:
    """One step: skipped when the world has it, else run between two lines of the journal. Does not start after a signal."""
    signals.check()
    reason = settled or (step.done(world) if step.name in world.pending else "")
    if reason:
        console.skip(f"{number} {step.name}: {reason}")
        if world.journal.facts(step.name) is None:
            world.journal.write(step.name, "skipped", {"reason": reason, "digests": world.digests})
        return
    quiet = not set(world.pending) - {"preflight"}  # everything is done: nothing is worth a line
    begin = time.monotonic()
    console.step(f"{number} {step.name}: {step.title}")
    if quiet:
        step.run(world)
    else:
        with _journaled(world, step) as facts:
            facts.update(_persistently(world, step))
    console.info(f"{step.name} took {time.monotonic() - begin:.1f} s")


def _persistently(world: World, step: Step) -> Mapping[str, Any]:
    """Run a step, again where the registry answers and its answers were of no use: garbled by a cache, a proxy, a cable.

    Its client has been patient with each request already, so one that does not answer is not waited for again. Each try is
    in the journal. Raises what the last one raised.
    """
    first, pauses = 0.0, iter(PAUSES)
    while True:
        try:
            return step.run(world)
        except RegistryFailed as failed:
            first = first or time.monotonic()
            pause = next(pauses, None) if time.monotonic() - first < PATIENCE else None
            world.reconnect()
            if pause is None or type(failed) is not RegistryFailed or not world.answers():
                raise
            world.journal.write(step.name, "failed", {"reason": str(failed)[:2000]})
            console.warn(f"{failed}\n{step.name} is tried again in {pause:g} s")
        time.sleep(pause)
        signals.check()
        world.journal.write(step.name, "begun")


@contextmanager
def _journaled(world: World, step: Step) -> Iterator[dict[str, Any]]:
    facts: dict[str, Any] = {}
    try:
        world.journal.write(step.name, "begun")
        yield facts
    except BaseException as failed:
        _failed(world, step, failed)
        raise
    world.journal.write(step.name, "done", facts)


def _failed(world: World, step: Step, failed: BaseException) -> None:
    reason = str(failed) if isinstance(failed, (ShipyardError, OSError)) else type(failed).__name__
    try:
        world.journal.write(step.name, "failed", {"reason": reason[:2000]})
    except OSError as full:
        console.warn(f"the journal takes no line: {full}")
    if step is not preflight.STEP and not isinstance(failed, signals.Stopped):  # whose end says so
        console.info(f"{step.name} did not end well; what was done stays, and the same command goes on from here")


def plan(world: World) -> Mapping[str, Any]:
    """What a release would do, with every reference, and what would stop it. Starts nothing and writes nothing."""
    found = _references(world)
    world.pending = ()
    reasons = [str(fault) for fault in (*preflight.faults(world), *signing_keys.visible(world.project))]
    world.pending = tuple(step.name for step in STEPS)
    return {
        "version": world.version,
        "commit": world.commit.revision if world.bumped else f"the one that bumps {world.current} to {world.version}",
        "git_tag": world.tag,
        "registry": world.options.registry,
        "steps": [{"step": step.name, "title": step.title} for step in STEPS],
        "images": found,
        "would_stop_it": reasons,
    }


def show(found: Mapping[str, Any]) -> None:
    """Print a plan."""
    console.result(f"{found['version']} ({found['commit']}) to {found['registry']}, git tag {found['git_tag']}")
    rows = [(str(number), *each.values()) for number, each in enumerate(found["steps"], 1)]
    console.table(("", "step", "what it does"), rows)
    console.table(("image", "platforms", "reference", "moves"), [tuple(each.values()) for each in found["images"]])
    for reason in found["would_stop_it"]:
        console.warn(f"a release would stop here: {reason}")


def _references(world: World) -> list[dict[str, str]]:
    found = []
    for image, target in world.images:
        try:
            existing = world.registry.tags(world.path(image))
            note = ""
        except ShipyardError:
            existing, note = (), " as far as it is the newest"
        names = versions.moving(world.version, target, existing)
        found.append(
            {
                "image": f"{image.name}-{target}",
                "platforms": " ".join(image.platforms_of(target)),
                "reference": f"{world.repository(image)}:{tags.tag(world.version, target)}",
                "moves": " ".join(names[1:]) + note,
            }
        )
    return found
