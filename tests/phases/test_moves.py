"""From phase to phase and back, with data in Redis and clients that never stop calling."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator

import pytest

from tests.phases import paths
from tests.support import caller
from tests.support.service import wait_until
from tests.support.stack import VERSION, Checkout

KEPT = ("balancer", "redis", "claude-proxy", "egress", "claude-runner-1", "claude-runner-8")


@pytest.fixture(scope="module")
def stack(copy: Checkout) -> Iterator[Checkout]:
    yield copy


def identities(stack: Checkout) -> dict[str, list[str]]:
    return {service: stack.containers(service) for service in KEPT}


def test_there_and_back(stack: Checkout) -> None:
    """1 → 2 → 3 → 2 → 1: no failed request, no lost key, and every container but the API's is the very same one."""
    stack.invoke("host", "--api")
    word = secrets.token_hex(8)
    assert stack.redis("set", "llm-call:test", word) == "OK"
    workspace = ("exec", stack.container("claude-proxy"), "python3", "-c")
    stack.docker(*workspace, f"open('/workspace/{word}', 'w').close()")
    keys, there = paths.keys_in_redis(stack), identities(stack)
    for phase in (("hybrid",), ("prod",), ("hybrid",), ("host", "--api")):
        with caller.calling(stack, caller.models, caller.chat, caller.cached, caller.stream) as record:
            said = stack.invoke(*phase).stderr
        assert record.failures == [], (phase, said)
        assert min(record.answers[kind.__name__] for kind in (caller.models, caller.chat, caller.cached)) > 50, phase
        assert record.answers["stream"] > 1
        assert identities(stack) == there, phase
        assert stack.json("status")["overlay"] == phase[0]
    assert stack.redis("get", "llm-call:test") == word
    assert paths.keys_in_redis(stack) >= keys
    stack.docker(*workspace, f"import os; os.stat('/workspace/{word}')")


def test_from_the_host_to_containers_with_the_cli_at_work(stack: Checkout) -> None:
    """What the API on the host has under way reaches its end: its ways to redis and claude-proxy go after it."""
    assert stack.json("status")["overlay"] == "host"
    question = paths.chat("max/opus", "[[gap=1.5]] one two three four five six", stream=True)
    with stack.request("POST", "/v1/chat/completions", question) as response:
        assert response.status == 200
        with caller.calling(stack, caller.models, caller.chat) as record:
            stack.invoke("prod")
        assert paths.events(response)[-1][1] == "[DONE]"
    assert record.failures == []


def test_a_broken_image_leaves_the_api_on_the_host(stack: Checkout) -> None:
    stack.invoke("host", "--api")
    before = stack.containers()
    source = stack.root / "src/llm_call/api/__main__.py"
    text = source.read_text()
    source.write_text('raise SystemExit("broken on purpose")\n')
    try:
        refused = stack.invoke("prod", status=10)
    finally:
        source.write_text(text)
    assert "broken on purpose" in refused.stderr
    assert sorted(stack.containers(stopped=True)) == sorted(before)
    paths.through_the_cli(stack)


def test_from_phase_1_to_3_and_to_development(stack: Checkout) -> None:
    word = secrets.token_hex(8)
    assert stack.redis("set", "llm-call:test", word) == "OK"
    with caller.calling(stack, caller.models, caller.chat) as record:
        said = [stack.invoke(*phase).stderr for phase in (("prod",), ("dev", "--detach"))]
    assert record.failures == [], "".join(said)
    assert stack.redis("get", "llm-call:test") == word


def test_a_broken_new_image_leaves_the_old_stack_serving(stack: Checkout) -> None:
    stack.invoke("prod")
    assert [each["image"] for each in stack.json("status")["services"] if "-dev" in each["image"]] == []
    before = stack.containers()
    source = stack.root / "src/llm_call/api/__main__.py"
    text = source.read_text()
    source.write_text('raise SystemExit("broken on purpose")\n')
    try:
        with caller.calling(stack, caller.models, caller.chat, caller.stream) as record:
            refused = stack.invoke("hybrid", status=10)
    finally:
        source.write_text(text)
    assert "broken on purpose" in refused.stderr
    assert record.failures == []
    assert sorted(stack.containers(stopped=True)) == sorted(before)
    assert stack.json("status")["overlay"] == "prod"
    for path in (paths.healthy, paths.through_the_cli, paths.cached_in_redis):
        path(stack)


def test_a_broken_neighbour_is_put_back(stack: Checkout) -> None:
    """What a move has already exchanged comes back when a later part of it fails."""
    stack.invoke("prod")
    overlay = stack.root / "compose/hybrid.yaml"
    text = overlay.read_text()
    broken = "  egress: { command: [haproxy, -f, /nowhere] }\n"
    overlay.write_text(text.replace("services:\n", "services:\n" + broken))
    try:
        refused = stack.invoke("hybrid", status=10)
    finally:
        overlay.write_text(text)
    assert "egress" in refused.stderr
    assert stack.json("status")["overlay"] == "prod"
    assert not [each for each in stack.json("status")["services"] if each["service"] == "debug-ports"]

    def well() -> bool:
        return {each["health"] for each in stack.json("status")["services"]} == {"healthy"}

    wait_until(well, "every service to be healthy", 30)
    paths.through_the_cli(stack)


def test_a_faulty_file_stops_nothing(stack: Checkout) -> None:
    stack.invoke("prod")
    before = stack.containers()
    overlay = stack.root / "compose/hybrid.yaml"
    text = overlay.read_text()
    overlay.write_text(text + "\n  redis: [\n")
    try:
        assert "hybrid.yaml" in stack.invoke("hybrid", status=10).stderr
    finally:
        overlay.write_text(text)
    assert sorted(stack.containers()) == sorted(before)


def test_killed_in_the_middle_and_called_again(stack: Checkout) -> None:
    """kill -9 while the new API starts: the old one serves on, and the next command finishes the move."""
    stack.invoke("prod")
    with caller.calling(stack, caller.models, caller.chat) as record:
        process = stack.start("hybrid")
        assert process.stderr
        said: list[str] = []
        while "beside the old one" not in "".join(said[-1:]):
            said.append(next(process.stderr))
        process.kill()
        process.communicate()
        stack.invoke("hybrid")
    assert record.failures == []
    assert len(stack.containers("llm-call-api")) == 1
    assert stack.json("status")["overlay"] == "hybrid"


def test_the_scale_changes_under_load(stack: Checkout) -> None:
    stack.invoke("prod")
    for scale in (3, 1):
        with caller.calling(stack, caller.models, caller.chat, caller.stream) as record:
            stack.invoke("prod", "--scale", f"llm-call-api={scale}")
        assert record.failures == [], scale
        assert len(stack.containers("llm-call-api")) == scale
    assert stack.ask("GET", "/health/balancer")[1]["instances"] == 1


def test_another_version_under_a_stream(stack: Checkout) -> None:
    """Every container is another one then, the balancer too: a gap, but a short one, and nobody waits for a stream."""
    stack.invoke("prod")
    (stack.root / "VERSION").write_text(f"{VERSION}1\n")
    with caller.calling(stack, caller.models) as record:
        stack.invoke("prod")
    assert {each["image"].rpartition(":")[2] for each in stack.json("status")["services"]} == {f"{VERSION}1"}
    refused = ("Error", "Disconnected", "no_instance")  # never a wrong answer
    assert [each for each in record.failures if not any(word in each for word in refused)] == []
    seconds = [float(each.split()[0]) for each in record.failures]
    assert not seconds or max(seconds) - min(seconds) < 15
    paths.through_the_cli(stack)


def test_secrets_that_were_made_anew_are_used(stack: Checkout) -> None:
    """Containers hold on to a folder that was replaced; the next start sees that."""
    place = stack.root / "secrets"
    kept = {name: (place / name).read_text() for name in ("egress/anthropic_api_key", "api/openai_api_key")}
    shutil.rmtree(place)
    for name, text in kept.items():
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text(text)
    stack.invoke("prod")
    for path in (paths.healthy, paths.through_the_cli, paths.cached_in_redis):
        path(stack)


def test_redis_ends_cleanly_and_keeps_what_it_held(stack: Checkout) -> None:
    word = secrets.token_hex(8)
    assert stack.redis("set", "llm-call:last", word) == "OK"
    container = stack.container("redis")
    stack.docker("stop", container)
    said = stack.docker("logs", "--tail", "20", container)
    assert "Redis is now ready to exit" in said
    stack.docker("start", container)
    stack.invoke("down")
    stack.invoke("prod")
    assert stack.redis("get", "llm-call:last") == word
