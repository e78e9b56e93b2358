"""The verbs. Each body tells what happens; how it happens lives in shipyard/, which is imported as far as it is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from invoke import Collection, Context, task

import shipyard
from shipyard import console
from shipyard.errors import ShipyardError

HELP = {
    "detach": "return when the stack is healthy instead of streaming its logs",
    "follow": "go on until Ctrl-C",
    "image": "an image of docker/images.toml; may be given several times (default: all)",
    "json": "print one JSON document on stdout",
    "no-cache": "run every step again",
    "platform": 'comma-separated platforms, or "all" (default: the engine\'s own)',
    "refresh": "decide again, with today's packages or the hub's newest image",
    "service": "one service (default: all)",
    "tail": "lines per service",
    "target": "prod, dev or debug",
    "volumes": "remove the stack's data too",
}


def verb(*options: str, name: str | None = None) -> Callable[[Callable[..., None]], Any]:
    """An Invoke task whose toolkit errors become a clean exit: message on stderr, the error's own exit code."""

    def decorate(body: Callable[..., None]) -> Any:
        @wraps(body)
        def clean(*positional: Any, **named: Any) -> None:
            try:
                body(*positional, **named)
            except ShipyardError as failed:
                if os.environ.get("SHIPYARD_DEBUG"):
                    raise
                console.error(str(failed))
                sys.exit(failed.exit_code)
            except KeyboardInterrupt:
                console.error("interrupted")
                sys.exit(130)

        lists = ["image"] if "image" in options else []
        return task(name=name, iterable=lists, help={each: HELP[each] for each in options})(clean)

    return decorate


def here() -> tuple[Any, Any]:
    """The checkout that this file belongs to, and the engine it uses (started if there is none)."""
    return shipyard.config.load(Path(__file__).parent), shipyard.engine.find()


@verb("image", "target", "platform", "no-cache", "json")
def build(
    _: Context, image: list[str], target: str = "prod", platform: str = "", no_cache: bool = False, json: bool = False
) -> None:
    """Build images; those whose inputs did not change are skipped."""
    request = shipyard.images.Request(tuple(image), target, platform=platform, no_cache=no_cache)
    shipyard.images.show(shipyard.images.build(*here(), request), json=json)


@verb("image", "target", "json")
def why(_: Context, image: list[str], target: str = "prod", json: bool = False) -> None:
    """Name the files that changed since each image was built."""
    request = shipyard.images.Request(tuple(image), target)
    console.answer(shipyard.images.why(*here(), request), json=json, empty="up to date")


@verb("image", "target")
def size(_: Context, image: list[str], target: str = "prod") -> None:
    """Show each built image's size, its budget and its biggest files."""
    shipyard.images.size(*here(), shipyard.images.Request(tuple(image), target))


@verb("refresh", "json")
def base(_: Context, refresh: bool = False, json: bool = False) -> None:
    """Show which base image builds start from; prepare it if there is none."""
    project, found = here()
    console.answer(shipyard.bases.ensure(found, project.base, refresh=refresh), json=json)


@verb("detach")
def dev(_: Context, detach: bool = False) -> None:
    """Run the stack with mounted source, hot reload and all ports on 127.0.0.1; Ctrl-C stops it."""
    shipyard.stack.run(*here(), "dev", detach=detach)


@verb("detach")
def prod(_: Context, detach: bool = True) -> None:
    """Run the stack from production images; returns when it is healthy."""
    shipyard.stack.run(*here(), "prod", detach=detach)


@verb("json")
def status(_: Context, json: bool = False) -> None:
    """Show overlay, services, health and ports of this checkout's stack."""
    console.answer(shipyard.stack.status(*here()), json=json)


@verb("service", "follow", "tail")
def logs(_: Context, service: str = "", follow: bool = False, tail: int = 200) -> None:
    """Print the services' logs."""
    for line in shipyard.stack.logs(*here(), service=service, follow=follow, tail=tail):
        console.result(line)


@verb("volumes")
def down(_: Context, volumes: bool = False) -> None:
    """Stop the stack and remove its containers and networks; volumes stay."""
    shipyard.stack.down(*here(), volumes=volumes)


@verb(name="up")
def engine_up(_: Context) -> None:
    """Start the embedded engine unless an engine is there already."""
    shipyard.engine.up()
    console.answer(shipyard.engine.status())


@verb(name="down")
def engine_down(_: Context) -> None:
    """Stop the embedded engine and every container in it; data stays."""
    console.step("stopped the embedded engine" if shipyard.engine.down() else "no embedded engine is running")


@verb("json", name="status")
def engine_status(_: Context, json: bool = False) -> None:
    """Show which Docker engine is used; starts nothing."""
    console.answer(shipyard.engine.status(), json=json)


@verb(name="env")
def engine_env(_: Context) -> None:
    """Print shell lines that point any docker client at the engine: eval "$(invoke engine.env)"."""
    for line in shipyard.engine.find().exports():
        console.result(line)


engine = Collection("engine", engine_up, engine_down, engine_status, engine_env)
namespace = Collection(build, why, size, base, dev, prod, status, logs, down, engine)
