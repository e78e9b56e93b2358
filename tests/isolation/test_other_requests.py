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
    """A request that runs while others look for it: its folder, one of its processes, and what is in the folder."""

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

    def pid() -> str:
        lines = _run(scene, scene.proxy, "ps", "-eo", "pid=,args=").splitlines()
        return next((line.split()[0] for line in lines if f"until test -e done; do sleep 0.{mark}" in line), "")

    found = wait_until(pid, "the victim's tool", 30)
    (path,) = _run(scene, scene.plain, "find", "/workspace", "-name", "notes").split()
    folder = path.removesuffix("/work/notes")
    try:
        yield Victim(folder, found, notes)
    finally:
        _run(scene, scene.plain, "touch", f"{folder}/work/done")
        request.join(30)
    assert answers == [notes]  # nobody has hurt it


def test_its_folder_is_out_of_reach(scene: Scene, victim: Victim) -> None:
    work = f"{victim.folder}/work"
    tried = {
        "read": ["read", f"{work}/notes"],
        "change": ["change", f"{work}/notes"],
        "add": ["write", f"{work}/mine"],
        "list": ["listing", work],
        "list all of it": ["listing", victim.folder],
        "list all of them": ["listing", victim.folder.rpartition("/")[0]],
        "list the workspace": ["listing", "/workspace"],
        "list the sessions": ["listing", "/workspace/sessions"],
    }
    assert kinds(scene.stack.attempt(tried)) == dict.fromkeys(tried, "refused")
    _run(scene, scene.plain, "mkdir", "-p", "/workspace/sessions")
    assert kinds(scene.peers.attempt(scene.plain, tried)) == dict.fromkeys(tried, "done")


def test_its_processes_are_out_of_reach(scene: Scene, victim: Victim) -> None:
    tried = {
        **{name: ["read", f"/proc/{victim.pid}/{name}"] for name in ("cmdline", "environ", "maps", "cwd/notes")},
        **{name: [name, victim.pid] for name in ("open_memory", "peek", "trace", "enter", "send_signal")},
    }
    assert kinds(scene.stack.attempt(tried)) == dict.fromkeys(tried, "refused")
    assert kinds(scene.peers.attempt(scene.open, tried)) == dict.fromkeys(tried, "done")


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
