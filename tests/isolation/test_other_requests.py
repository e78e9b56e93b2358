"""What the tools of one client can do to a request of another, and to what the service keeps of it."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.isolation.scene import Scene
from tests.support.service import wait_until


@dataclass(frozen=True)
class Victim:
    """A request that runs while others look for it: its runner, its folder, one of its processes, and what it keeps."""

    runner: str
    folder: str
    pid: str
    notes: str


@pytest.fixture(scope="module")
def victim(scene: Scene) -> Iterator[Victim]:
    notes, mark = secrets.token_hex(16), f"{secrets.randbelow(10**6)}"
    command = f"echo {notes} >notes; until test -e done; do sleep 0.{mark}; done; cat notes"
    answers: list[str] = []
    request = threading.Thread(target=lambda: answers.append(scene.stack.bash(command, "other")))
    request.start()
    runners = [each for name, each in scene.stack.services().items() if name.startswith("claude-runner-")]

    def place() -> tuple[str, str] | None:
        for runner in runners:
            lines = _run(scene, runner, "ps", "-eo", "pid=,args=").splitlines()
            for line in lines:
                if f"until test -e done; do sleep 0.{mark}" in line:
                    return runner, line.split()[0]
        return None

    runner, pid = wait_until(place, "the victim's tool", 30)
    (path,) = _run(scene, runner, "find", "/run/work", "-name", "notes").split()
    folder = path.removesuffix("/work/notes")
    try:
        yield Victim(runner, folder, pid, notes)
    finally:
        _run(scene, runner, "touch", f"{folder}/work/done")
        request.join(30)
    assert answers == [notes]  # nobody has hurt it


def test_its_folder_is_out_of_reach(scene: Scene, victim: Victim) -> None:
    """The control is its own runner, without the CLI's sandbox."""
    work = f"{victim.folder}/work"
    tried = {
        "read": ["read", f"{work}/notes"],
        "change": ["change", f"{work}/notes"],
        "add": ["write", f"{work}/mine"],
        "list": ["listing", work],
        "list all of it": ["listing", victim.folder],
        "list all of them": ["listing", victim.folder.rpartition("/")[0]],
    }
    assert kinds(scene.stack.attempt(tried)) == dict.fromkeys(tried, "refused")
    assert kinds(scene.peers.attempt(victim.runner, tried)) == dict.fromkeys(tried, "done")


def test_its_processes_are_out_of_reach(scene: Scene, victim: Victim) -> None:
    """They have no number in another runner; what has the same number there is another's, and none of it is told."""
    names = ("cmdline", "environ", "maps", "cwd/notes")
    tried = {name: ["read", f"/proc/{victim.pid}/{name}"] for name in names}
    assert victim.notes not in str(scene.stack.attempt(tried))
    found = scene.peers.attempt(victim.runner, {name: tried[name] for name in ("cmdline", "cwd/notes")})
    assert kinds(found) == {"cmdline": "done", "cwd/notes": "done"}
    assert victim.notes in found["cwd/notes"]
    mine = scene.stack.bash("readlink /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/mnt").split()
    theirs = _run(scene, victim.runner, "readlink", *(f"/proc/self/ns/{name}" for name in ("pid", "net", "ipc", "mnt")))
    assert set(mine).isdisjoint(theirs.split())


def test_the_proxys_socket_is_of_no_use(scene: Scene, victim: Victim) -> None:
    """Even to one who knows its name: a runner's user has its connection already."""
    (name,) = _run(scene, scene.proxy, "ls", "/run/runners").split()
    tried = {"connect": ["socket_of_the_proxy", f"/run/runners/{name}"]}
    assert kinds(scene.stack.attempt(tried)) == {"connect": "refused"}
    assert kinds(scene.peers.attempt(scene.runner, tried)) == {"connect": "refused"}


@pytest.mark.parametrize("headers", [{}, {"x-llm-call-client": "other"}], ids=["by name", "by header"])
def test_its_session_is_another(scene: Scene, headers: dict[str, str]) -> None:
    """The same name of a session is a session of one's own; what the other said is not in what the provider is asked."""
    session, word = secrets.token_hex(8), secrets.token_hex(16)
    status, first = scene.stack.ask("other", f"remember {word}", session_id=session)
    assert (status, first["session_turns"]) == (200, 2), first
    status, mine = scene.stack.ask("client", "what was it?", headers, session_id=session)
    assert (status, mine["session_turns"]) == (200, 2), mine
    assert word not in _provider_was_asked(scene)
    status, theirs = scene.stack.ask("other", "what was it?", session_id=session)
    assert (status, theirs["session_turns"]) == (200, 4), theirs
    assert word in _provider_was_asked(scene)


def kinds(outcomes: dict[str, str]) -> dict[str, str]:
    return {name: outcome.partition(":")[0] for name, outcome in outcomes.items()}


def _run(scene: Scene, container: str, *words: str) -> str:
    return scene.stack.copy.docker("exec", container, *words)


def _provider_was_asked(scene: Scene) -> str:
    connection = http.client.HTTPConnection(scene.facts["messages-api_outbound"], 9100, timeout=10)
    connection.request("GET", "/last")
    body = json.loads(connection.getresponse().read())["body"]
    connection.close()
    return json.dumps(body)
