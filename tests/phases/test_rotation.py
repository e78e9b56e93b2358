"""New keys in place of old ones under clients that never stop: no request fails, and the old keys end when they should."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.phases import paths
from tests.support import caller
from tests.support.service import wait_until
from tests.support.stack import Checkout


@pytest.fixture(scope="module")
def prod(production: Checkout) -> Iterator[Checkout]:
    production.invoke("prod")
    yield production


def claude(client: caller.Client, number: int) -> tuple[int, bytes]:
    """A question for the real CLI, through the key between the gateway and the Claude proxy."""
    return client.ask("POST", "/v1/chat/completions", paths.chat("max/haiku", f"say {number}"))


def presented(copy: Checkout, key: str) -> int:
    """The status that a client with this key gets."""
    return copy.ask("GET", "/v1/models", authorization=f"Bearer {key}")[0]


def ready(copy: Checkout, dependency: str) -> Callable[[], bool]:
    def found() -> bool:
        return bool(copy.ask("GET", "/health")[1]["dependencies"][dependency]["state"] == "ok")

    return found


def test_init_has_nothing_to_do_and_check_finds_nothing(prod: Checkout) -> None:
    done = prod.invoke("secrets.init")
    assert done.stdout == "" and "nothing is missing" in done.stderr
    assert prod.json("secrets.check")["faults"] == []


def test_the_client_s_key(prod: Checkout) -> None:
    old = prod.key
    with caller.calling(prod, caller.models, caller.chat, caller.stream) as record:
        new = prod.invoke("secrets.rotate", "client").stdout.strip()
        assert new == prod.key != old
        wait_until(lambda: presented(prod, new) == 200, "the new key")
        assert presented(prod, old) == 200
        assert "--finish" in prod.json("secrets.check")["rotating"][0]
        prod.invoke("secrets.rotate", "client", "--finish")
        wait_until(lambda: presented(prod, old) == 401, "the end of the old key")
    assert presented(prod, new) == 200
    assert record.failures == []
    assert min(record.answers[kind.__name__] for kind in (caller.models, caller.chat)) > 50


def test_the_key_between_the_gateway_and_the_claude_proxy(prod: Checkout) -> None:
    place = prod.root / "secrets/api/claude_proxy_key"
    old = place.read_text()
    with caller.calling(prod, claude) as record:
        prod.invoke("secrets.rotate", "claude-proxy")
        between = record.answers["claude"]
        wait_until(lambda: record.answers["claude"] >= between + 4, "calls with the new key", 60)
        prod.invoke("secrets.rotate", "claude-proxy", "--finish")
        after = record.answers["claude"]
        wait_until(lambda: record.answers["claude"] >= after + 4, "calls without the old key", 60)
    assert record.failures == []
    assert place.read_text() != old
    ask = (
        "import urllib.request as u,urllib.error as e,sys;q=u.Request('http://127.0.0.1:3010/v1/models',"
        "headers={'authorization':'Bearer '+sys.argv[1]})\n"
        "try: print(u.urlopen(q).status)\n"
        "except e.HTTPError as x: print(x.code)"
    )
    inside = ("exec", prod.container("claude-proxy"), "python3", "-c", ask)
    assert prod.docker(*inside, place.read_text().strip()).strip() == "200"
    assert prod.docker(*inside, old.strip()).strip() == "401"


def test_the_passwords_of_redis(prod: Checkout) -> None:
    """Redis is started anew, cleanly, and keeps what it holds; the API's container is the same one."""
    place, api = prod.root / "secrets/api/redis_password", prod.started("llm-call-api")
    old = place.read_text().strip()
    assert prod.redis("set", "llm-call:kept", "yes") == "OK"
    with caller.calling(prod, caller.models, caller.chat, caller.cached) as record:
        prod.invoke("secrets.rotate", "redis")
        assert place.read_text().strip() != old
        prod.invoke("secrets.rotate", "redis", "--finish")
        wait_until(ready(prod, "redis"), "the API's connection to Redis")
    assert record.failures == []
    assert prod.redis("get", "llm-call:kept") == "yes"
    asked = ("exec", prod.container("redis"), "redis-cli", "--no-auth-warning", "--user", "llm-call-api", "--pass", old)
    assert "WRONGPASS" in prod.docker(*asked, "ping") or "NOAUTH" in prod.docker(*asked, "ping")
    assert prod.started("llm-call-api") == api
    assert paths.keys_in_redis(prod) > 0


def test_a_broken_secret_is_named_with_all_others(prod: Checkout) -> None:
    path = prod.root / "secrets/api/openai_api_key"
    text = path.read_text()
    path.chmod(0o644)
    path.write_text("your-key-here\r\n")
    try:
        refused = prod.invoke("secrets.check", "--json", status=3)
        said = {each["problem"] for each in json.loads(refused.stdout)["faults"]}
        wanted = {"looks like a placeholder", "has line ends of Windows", "everyone on this machine may read it"}
        assert wanted <= said
    finally:
        path.write_text(text)
        path.chmod(0o440)
