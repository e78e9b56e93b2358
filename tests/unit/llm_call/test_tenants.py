"""What one client can learn of another: ids of requests, learned routes, models behind a key's back, options of a library."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_call.api import foreign, request
from llm_call.api.app import assemble
from llm_call.api.call import Call
from llm_call.api.catalog import Route
from llm_call.api.settings import OPTIONS, Settings
from llm_call.api.store import Store
from serving.auth import Keyring
from serving.health import Health
from tests.support.asgi import Answer, ask
from tests.unit.llm_call.test_gateway import BODY, CATALOG, OTHER, Pool, Reply, target


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    lines = {"hub": "", "spoke": "", "narrow": "models=any,d/one"}
    text = "".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()} {more}\n" for name, more in lines.items())
    (tmp_path / "keys").write_text(text)
    return Keyring.load(tmp_path / "keys", options=OPTIONS)


def gateway(keyring: Keyring, pool: Pool) -> Any:
    health = Health()
    health.started()
    return assemble(Settings(CATALOG, keyring, rl_routing=True), health, pool, Store(None))


async def said(app: Any, key: str, path: str, body: Any = None, **headers: str) -> Answer:
    given = {"authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = b"" if body is None else json.dumps(body).encode()
    return await ask(app, "GET" if body is None else "POST", path, raw, given)


def test_an_answer_is_rated_by_who_asked_although_clients_choose_the_ids(keyring: Keyring) -> None:
    async def run() -> list[int]:
        app = gateway(keyring, Pool(Reply([b'{"n":1}'])))
        answer = await said(app, "hub", "/v1/chat/completions", {**BODY, "model": "any"}, x_request_id="mine")
        assert answer.status == 200
        rating = {"request_id": "mine", "rating": 1}
        return [(await said(app, key, "/v1/feedback", rating)).status for key in ("spoke", "hub")]

    assert asyncio.run(run()) == [404, 200]


def test_learned_routes_are_shown_to_who_may_use_them(keyring: Keyring) -> None:
    async def run() -> list[list[str]]:
        app = gateway(keyring, Pool(Reply([b"{}"])))
        return [sorted((await said(app, key, "/v1/routing")).json["routes"]) for key in ("hub", "narrow")]

    assert asyncio.run(run()) == [["any", "mixed"], ["any"]]


@pytest.mark.parametrize(
    "more",
    [{"models": ["d/two"]}, {"fallbacks": ["d/two"]}, {"preset": "x"}, {"Model": "d/two"}, {"model\0": "d/two"}],
    ids=lambda more: next(iter(more)).replace("\0", "NUL"),
)
def test_a_key_for_some_models_names_no_other_beside_one_of_them(keyring: Keyring, more: dict[str, Any]) -> None:
    async def run() -> tuple[int, int]:
        app = gateway(keyring, pool := Pool(Reply([b'{"n":1}'])))
        answer = await said(app, "narrow", "/v1/chat/completions", {**BODY, **more})
        assert answer.status in (400, 403)
        assert answer.json["error"]["param"] == next(iter(more))
        assert (await said(app, "narrow", "/v1/chat/completions", BODY)).status == 200
        return answer.status, len(pool.sent)

    assert asyncio.run(run())[1] == 1


def test_what_goes_upstream_is_what_was_parsed() -> None:
    raw = b' { "model" : "d/one", "messages":[{"role":"user","content":"\\u0041\\/"}], "x":1.0e1 }\r\n'
    asked = request.parse(raw, "chat/completions")
    assert asked.named("d/one") == b'{"model":"d/one","messages":[{"role":"user","content":"A/"}],"x":10.0}'
    assert asked.named("two") == b'{"model":"two","messages":[{"role":"user","content":"A/"}],"x":10.0}'


def test_litellm_gets_a_clients_fields_as_data_only() -> None:
    """Its options include an address, a key and headers: where to send the provider's key, that is."""
    seen: dict[str, Any] = {}

    async def acompletion(**options: Any) -> Any:
        seen.update(options)
        return SimpleNamespace(model_dump=lambda **_: {})

    sly = {
        "api_base": "http://elsewhere",
        "api_key": "k",
        "extra_headers": {"a": "b"},
        "extra_body": {"c": 1},
        "seed": 3,
    }
    raw = json.dumps({**BODY, **sly, "custom_llm_provider": "other", "timeout": 9}).encode()
    call = Call(request.parse(raw, "chat/completions"), Route("x", ()), (), "id")
    library = SimpleNamespace(acompletion=acompletion)
    asyncio.run(foreign.post(library, target("x", OTHER.upstream, "openai/x"), call))
    assert {"api_key", "extra_headers", "custom_llm_provider"}.isdisjoint(seen)
    assert (seen["api_base"], seen["timeout"], seen["seed"]) == ("http://spare/v1", 1.0, 3)
    others = {name: value for name, value in sly.items() if name != "seed"}
    assert seen["extra_body"] == {**others, "custom_llm_provider": "other", "timeout": 9}
