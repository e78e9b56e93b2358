"""Programs that verbs call: whether they are there, and new enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipyard.diagnosis import numbers
from shipyard.diagnosis.finding import Finding, fail, ok, warn
from shipyard.diagnosis.numbers import Numbers


@dataclass(frozen=True)
class Plugin:
    """A plugin of the docker client, the oldest that will do, and why that one."""

    name: str
    oldest: Numbers
    reason: str


#: `bake --progress rawjson` (commands/bake.py) came with 0.13; this leaves a margin, and 0.29.1 is what the tests run.
BUILDX = Plugin("buildx", (0, 17), "for what the toolkit asks of bake")
#: The tag !override (compose/debug-ports.yaml, granger.yaml, host.yaml) came with 2.24.4, !reset with 2.18, by the
#: chapter "Merge" of the Compose file reference. 2.26.1 was tried with every overlay, 2.40.3 is what the tests run.
COMPOSE = Plugin("compose", (2, 24, 4), "for the tag !override in compose/*.yaml")
#: An option of commands/cosign.py that came with cosign 2.6; Debian's build does not say its version.
COSIGN_OPTION = "--use-signing-config"


def missing(what: str, obstacle: str) -> Finding:
    """A program that is not there. ``obstacle`` is why it cannot be unpacked from Debian packages; empty when it can."""
    if obstacle:
        return fail(f"{what} is missing, and cannot be unpacked here because {obstacle}", f"install {what}")
    return fail(f"{what} is not unpacked yet", "invoke doctor --fix", fix="tools")


def plugin(wanted: Plugin, client: Mapping[str, Any], obstacle: str) -> Finding:
    """A plugin as the docker client sees it (`docker info`, ClientInfo)."""
    found = next((each for each in client.get("Plugins") or () if each.get("Name") == wanted.name), None)
    what = f"docker {wanted.name}"
    if found is None:
        return missing(what, obstacle)
    path, said = found.get("Path", ""), str(found.get("Version") or "")
    newer = f"install {what} {numbers.show(wanted.oldest)} or newer in place of {path}"
    if problem := found.get("Err"):
        return fail(f"{path} does not run: {_line(problem)}", newer)
    if numbers.older(said, wanted.oldest):
        return fail(f"{said} ({path}) is older than {numbers.show(wanted.oldest)}, {wanted.reason}", newer)
    if numbers.older(said, wanted.oldest) is None:
        return warn(f'{path} says it is version "{said}"', newer)
    return ok(f"{said} ({path})")


def client(info: Mapping[str, Any], program: str) -> Finding:
    """The docker client itself; its age matters little, for the engine and the plugins do the work."""
    return ok(f"{info.get('Version') or 'version unknown'} ({program})")


def cosign(program: str, help_text: str) -> Finding:
    """What signs and verifies: judged by what it can, for not every build says which version it is."""
    if COSIGN_OPTION in help_text:
        return ok(program)
    return fail(f"{program} does not know {COSIGN_OPTION}", f"install cosign 3 or newer in place of {program}")


def git(said: str) -> Finding:
    """What tells commits, tags and changed files."""
    if not said:
        return fail("git is missing", "apt-get install git, or what installs it here")
    return ok(said.removeprefix("git version ").strip())


def _line(text: Any) -> str:
    return str(text).strip().splitlines()[-1][-160:] if str(text).strip() else "it says nothing"
