"""Containers and networks of a test's own beside a stack: controls, doubles and neighbours."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.support import intruder
from tests.support.outside import STAND_IN
from tests.support.stack import Checkout


class Peers:
    """Makes them under names that nobody else has, and removes them in the opposite order."""

    def __init__(self, copy: Checkout, image: str, cleanup: ExitStack) -> None:
        self._copy, self._image, self._cleanup = copy, image, cleanup
        self._mark = f"isolation-{secrets.token_hex(4)}"

    def at_the_end(self, action: Callable[[str], None], what: str) -> None:
        """Have something undone with all the rest."""
        self._cleanup.callback(action, what)

    def network(self, name: str, *options: str) -> str:
        """An ordinary bridge."""
        made = f"{self._mark}-{name}"
        self._copy.docker("network", "create", *options, made)
        self._cleanup.callback(self._copy.docker, "network", "rm", made)
        return made

    def container(self, name: str, *options: str, command: Sequence[str] = ("sleep", "infinity")) -> str:
        """A container of the image, by default one that waits for `docker exec`."""
        made = f"{self._mark}-{name}"
        self._cleanup.callback(self._copy.docker, "rm", "--force", "--volumes", made)
        self._copy.docker("run", "--detach", "--name", made, "--user", "0", *options, self._image, *command)
        return made

    def stand_in(self, name: str, *options: str, ports: Sequence[int]) -> str:
        """A container in which something answers at TCP and UDP ports."""
        mount = f"type=bind,source={STAND_IN},target=/stand_in.py,readonly"
        numbers = [str(port) for port in ports]
        command = ["python3", "/stand_in.py", "--address", "0.0.0.0", "--tcp", *numbers, "--udp", *numbers]
        return self.container(name, "--mount", mount, *options, command=command)

    def join(self, network: str, container: str, *options: str) -> None:
        """Connect a container to one more network, until the end."""
        self._copy.docker("network", "connect", *options, network, container)
        self._cleanup.callback(self._copy.docker, "network", "disconnect", "--force", network, container)

    def attempt(self, container: str, attempts: Mapping[str, Sequence[str]], *options: str) -> dict[str, str]:
        """What became of attempts in a container, by `docker exec` and therefore without the CLI's sandbox."""
        said = self._copy.docker("exec", *options, container, *intruder.argv(attempts))
        found: dict[str, str] = json.loads(said)
        return found


@contextmanager
def peers(copy: Checkout, image: str) -> Iterator[Peers]:
    """Everything that is made in the block is gone after it."""
    with ExitStack() as cleanup:
        yield Peers(copy, image, cleanup)


def networks(copy: Checkout, container: str) -> dict[str, Any]:
    """What the engine says of a container's networks, by their names without the project's."""
    (found,) = json.loads(copy.docker("inspect", container))
    return {name.rpartition("_")[2]: each for name, each in found["NetworkSettings"]["Networks"].items()}
