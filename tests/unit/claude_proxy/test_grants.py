from __future__ import annotations

import pytest

from claude_proxy import grants
from claude_proxy.conversation import Ask
from serving.errors import ApiError
from serving.keys_file import Key

KEY = Key("worker", options={"tools": ("Read", "Bash"), "mcp": ("docs",)})


def ask(tools: tuple[str, ...] | None = None, servers: tuple[str, ...] = ()) -> Ask:
    return Ask("opus", "", [], [], tools=tools, servers=servers)


def allowed(asked: Ask, key: Key = KEY) -> Ask:
    return grants.apply(asked, grants.grant(key, {"docs", "other"}))


def refused(asked: Ask) -> ApiError:
    with pytest.raises(ApiError) as caught:
        allowed(asked)
    return caught.value


def test_a_key_without_options_has_no_tools() -> None:
    assert allowed(ask(), Key("anonymous")).tools == ()


def test_a_request_has_all_tools_of_its_key_or_those_it_asks_for() -> None:
    assert allowed(ask()).tools == ("Read", "Bash")
    assert allowed(ask(("Bash",))).tools == ("Bash",)
    assert allowed(ask(())).tools == ()
    assert allowed(ask(servers=("docs",))).servers == ("docs",)


def test_nothing_widens_what_a_key_may_use() -> None:
    error = refused(ask(("Write",)))
    assert (error.status, error.param, error.code) == (403, "claude_tools", "not_allowed_for_key")
    assert "tools=Write" in error.message
    error = refused(ask(servers=("other",)))
    assert (error.status, error.param) == (403, "mcp_servers")
    assert "mcp=other" in error.message


def test_an_unknown_tool_is_400_with_the_nearest_name() -> None:
    error = refused(ask(("Reed",)))
    assert error.status == 400
    assert 'perhaps you meant "Read"' in error.message


def test_the_keys_file_is_held_to_names_that_exist() -> None:
    wrong = Key("worker", options={"tools": ("bash", "Read"), "mcp": ("dox",)})
    assert grants.faults(wrong, ["docs"]) == [
        'tools=bash does not exist; perhaps you meant "Bash"',
        'mcp=dox does not exist; perhaps you meant "docs"',
    ]
    assert grants.faults(KEY, ["docs"]) == []
    granted = grants.grant(wrong, ["docs"])
    assert (granted.key, granted.tools, granted.servers) == ("worker", ("Read",), ())


@pytest.mark.parametrize("models", [None, ("opus",), ("max/opus",), ("max/*",), ("op*",)])
def test_a_model_is_allowed_by_either_of_its_names(models: tuple[str, ...] | None) -> None:
    grants.check_model(Key("some", models=models), "opus")


def test_another_model_is_403() -> None:
    with pytest.raises(ApiError, match=r"it may use haiku\.") as caught:
        grants.check_model(Key("some", models=("haiku",)), "opus")
    assert caught.value.status == 403


def narrowed(**headers: str) -> grants.Grant:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return grants.narrowed(grants.grant(KEY, {"docs"}), {"headers": pairs})


def test_a_gateways_client_has_a_name_of_its_own_and_no_more_than_both_may() -> None:
    assert narrowed() == grants.Grant("worker", ("Read", "Bash"), ("docs",), owner=f"worker:{KEY.scope.hex()}")
    assert narrowed(x_llm_call_client="hub") == grants.Grant("worker/hub", (), (), owner="worker/hub:")
    told = {"x_llm_call_client": "hub", "x_llm_call_tools": "Write, Read", "x_llm_call_mcp": "docs,other"}
    assert narrowed(**told) == grants.Grant("worker/hub", ("Read",), ("docs",), owner="worker/hub:")
    scopes = [narrowed(**told, x_llm_call_scope=digit * 64).owner for digit in "ab"]
    assert scopes == [f"worker/hub:{digit * 64}" for digit in "ab"]


@pytest.mark.parametrize("scope", ["A" * 64, "a" * 63, "a" * 65, "../" + "a" * 61])
def test_a_scope_that_is_none_is_refused(scope: str) -> None:
    with pytest.raises(ApiError, match="x-llm-call-scope"):
        narrowed(x_llm_call_client="hub", x_llm_call_scope=scope)


def test_another_key_of_the_same_name_owns_other_sessions() -> None:
    first, second = (grants.grant(Key("worker", scope=bytes([each]) * 32), ()) for each in (1, 2))
    assert first.owner != second.owner


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "\u00e4"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ApiError, match="x-llm-call-client"):
        narrowed(x_llm_call_client=name)


def scope(**headers: str) -> dict[str, object]:
    given = {"x-llm-call-client": "hub", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {"headers": [(name.encode(), value.encode()) for name, value in given.items()]}


def test_what_one_request_may_have_is_the_keys_and_no_more_than_its_clients() -> None:
    key = Key("api", options={"calls": ("50",), "tokens": ("7",)})
    granted = grants.grant(key, ())
    assert (granted.calls, granted.tokens) == (50, 7)
    told = grants.narrowed(granted, scope(x_llm_call_calls="90"))
    assert (told.calls, told.tokens, told.most_calls, told.most_tokens) == (50, 7, 90, None)
    asked = grants.apply(ask(), told)
    assert (asked.calls, asked.tokens, asked.most_calls, asked.most_tokens) == (50, 7, 90, None)


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1,2", "1e9", "+5", " 5", "9" * 20])
def test_a_bound_of_the_gateways_client_is_a_number(value: str) -> None:
    with pytest.raises(ApiError) as caught:
        grants.narrowed(grants.grant(KEY, ()), scope(x_llm_call_tokens=value))
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
