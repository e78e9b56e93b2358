"""From a granger peer: a container of somebody else's that shares one network with the entrance, and holds no key."""

from __future__ import annotations

import json

import pytest

from tests.isolation.attempts import FROM_A_PEER, PEER, Attempt, Outcomes
from tests.isolation.scene import Scene

ENTRANCE, PORT = "llm-call-api", "8001"
GUARDED = ("/v1/chat/completions", "/v1/embeddings", "/v1/feedback", "/v1/models", "/v1/models/max/opus", "/v1/routing")
OPEN = ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json")
ASK = (
    "import json,sys,urllib.request as u,urllib.error as e\n"
    "def ask(path, key):\n"
    "    r = u.Request('http://llm-call-api:8001' + path, headers={'authorization': key} if key else {})\n"
    "    try: a = u.urlopen(r, timeout=10)\n"
    "    except e.HTTPError as f: a = f\n"
    "    return a.status, a.read().decode()\n"
    "print(json.dumps([ask(*each) for each in json.loads(sys.argv[1])]))"
)


def asked(scene: Scene, *questions: tuple[str, str]) -> list[tuple[int, str]]:
    """Status and body of GET requests from the peer: path, and what stands in `authorization`."""
    words = ("exec", scene.peer, "python3", "-I", "-c", ASK, json.dumps(questions))
    return [(status, body) for status, body in json.loads(scene.stack.copy.docker(*words))]


@pytest.mark.parametrize("attempt", FROM_A_PEER, ids=lambda attempt: attempt.name)
def test_the_control_succeeds(outcomes: Outcomes, attempt: Attempt) -> None:
    outcome = outcomes.found[attempt.control][attempt.name]
    assert outcome.startswith("done: "), f"so the attempt proves nothing: {outcome}"


@pytest.mark.parametrize("attempt", FROM_A_PEER, ids=lambda attempt: attempt.name)
def test_it_is_refused(outcomes: Outcomes, attempt: Attempt) -> None:
    assert outcomes.found[PEER][attempt.name].startswith("refused: ")


def test_one_port_is_open(scene: Scene) -> None:
    scan = {
        "entrance": ["open_ports", ENTRANCE, "1", "65535"],
        "control": ["open_ports", "granger-peer", "3000", "3100"],
    }
    found = scene.peers.attempt(scene.peer, scan)
    assert found == {"entrance": f"done: [{PORT}]", "control": "done: [3011]"}


def test_without_a_key_nothing_is_served(scene: Scene) -> None:
    stolen = ("", "Bearer", "Bearer wrong", "Bearer llmc-wrong", f"Basic {scene.stack.keys['client']}")
    found = asked(scene, *((path, key) for path in GUARDED for key in stolen))
    assert {status for status, _ in found} == {401}
    assert asked(scene, ("/v1/models", f"Bearer {scene.stack.keys['client']}"))[0][0] == 200


def test_what_is_open_tells_no_secret_and_no_client(scene: Scene) -> None:
    found = asked(scene, *((path, "") for path in OPEN))
    assert {status for status, _ in found} == {200}
    told = "".join(body for _, body in found)
    assert "llm_call_" in told  # the metrics are among them
    assert [value for value in scene.stack.secrets() if value in told] == []
