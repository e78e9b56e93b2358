"""llm_call.api.catalog, models_file and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_call.api import models_file, settings
from llm_call.api.catalog import Catalog, Price, UnknownModel
from serving.settings import Env, SettingsError

ROOT = Path(__file__).resolve().parents[3]
DEFAULT = ROOT / "config" / "models.toml"


def load(text: str, tmp_path: Path, **env: str) -> Catalog:
    (tmp_path / "models.toml").write_text(text)
    return models_file.load(str(tmp_path / "models.toml"), Env(env))


def faults(text: str, tmp_path: Path, **env: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, tmp_path, **env)
    return [fault.removeprefix(f"{tmp_path}/models.toml: ") for fault in caught.value.faults]


GOOD = """
[upstream.a-b]
kind = "openai"
base_url = "http://a:1/v1/"
[model."x/*"]
upstream = "a-b"
[model."x/y/*"]
upstream = "a-b"
name = "deep-*"
[model.one]
upstream = "a-b"
name = "uno"
"""


def test_the_file_in_the_repository_is_valid() -> None:
    catalog = models_file.load(str(DEFAULT), Env({"CLAUDE_PROXY_KEY": "k"}))
    assert {"max/opus", "max/sonnet", "openai/*", "ollama/*", "auto"} <= set(catalog.routes)
    (target,) = catalog.find("max/opus").targets
    assert (target.upstream.kind, target.upstream.base_url) == ("claude-proxy", "http://claude-proxy:3010/v1")
    assert target.upstream_name == "opus"
    assert catalog.find("ollama/llama3:8b").targets[0].upstream_name == "llama3:8b"
    auto = catalog.find("auto")
    assert auto.learned
    assert [each.model for each in auto.targets] == ["max/sonnet", "openai/gpt-4o-mini"]
    assert catalog.upstreams["openai"].lacks_key
    assert not catalog.upstreams["ollama"].lacks_key
    assert "[REDACTED]" in repr(catalog.upstreams["claude-proxy"])


def test_names_are_matched_the_longest_first(tmp_path: Path) -> None:
    catalog = load(GOOD, tmp_path)
    found = [catalog.find(name).targets[0].upstream_name for name in ("one", "x/z", "x/y/z")]
    assert found == ["uno", "z", "deep-z"]
    assert catalog.upstreams["a-b"].base_url == "http://a:1/v1"
    for name, nearest in (("onee", "one"), ("x/", "x/*"), ("zzzzzz", None), ("q" * 10**6, None)):
        with pytest.raises(UnknownModel) as caught:
            catalog.find(name)
        assert caught.value.nearest == nearest


def test_the_environment_overrides_a_base_url(tmp_path: Path) -> None:
    catalog = load(GOOD, tmp_path, UPSTREAM_A_B_BASE_URL="http://127.0.0.1:9/v1")
    assert catalog.upstreams["a-b"].base_url == "http://127.0.0.1:9/v1"
    with pytest.raises(SettingsError, match="UPSTREAM_A_B_BASE_URL"):
        load(GOOD, tmp_path, UPSTREAM_A_B_BASE_URL="ftp://x")


def test_every_fault_is_reported_with_its_place(tmp_path: Path) -> None:
    text = """
    [upstreams]
    [upstream.a]
    kind = "opnai"
    bse_url = "http://x"
    timeout = true
    api_key_env = "sk-123"
    [upstream.b]
    kind = "openai"
    base_url = "x"
    [model.m]
    upstream = "bb"
    [model."a*b"]
    upstream = "b"
    [model.n]
    upstream = "b"
    name = "*"
    """
    assert faults(text, tmp_path) == [
        'upstreams: unknown key; perhaps you meant "upstream"',
        'upstream.a.bse_url: unknown key; perhaps you meant "base_url"',
        'upstream.a.kind: "opnai" is no kind; perhaps you meant "openai"',
        "upstream.a.api_key_env: is the name of a variable, such as OPENAI_API_KEY, never the key itself",
        "upstream.a.timeout: is a number above 0, at most 86400",
        'upstream.b.base_url: "x" is not of the form http://HOST:PORT/v1',
        'model."m".upstream: there is no upstream "bb"; perhaps you meant "b"',
        'model."a*b": a * stands at the end of the name only, and a name is not empty',
        'model."n".name: holds a *, but the model\'s own name does not',
    ]


@pytest.mark.parametrize("text", ["", "model = 1", "[model]\nx = 3", "[upstream]\nx = []\n[model.m]\nupstream = 1"])
def test_wrong_shapes_are_faults_not_crashes(text: str, tmp_path: Path) -> None:
    assert faults(text, tmp_path)


def test_broken_toml_and_a_missing_file(tmp_path: Path) -> None:
    assert "not TOML" in faults("[model", tmp_path)[0]
    with pytest.raises(SettingsError, match=r"cannot be read: no such file.*LLM_CALL_MODELS"):
        models_file.load(str(tmp_path / "none.toml"), Env({}))


def test_the_claude_proxy_vanishes_when_switched_off() -> None:
    env = {"LLM_CALL_MODELS": str(DEFAULT), "ENABLE_CLAUDE_PROXY": "false", "ENABLE_RL_ROUTING": "true"}
    chosen = settings.read("127.0.0.1", Env(env))
    assert not [name for name in chosen.catalog.routes if name.startswith("max/")]
    assert [each.model for each in chosen.catalog.find("auto").targets] == ["openai/gpt-4o-mini"]
    assert "claude-proxy" not in chosen.catalog.upstreams
    assert chosen.rl_routing


def test_settings_report_all_faults_at_once() -> None:
    env = {
        "LLM_CALL_MODELS": "/none.toml",
        "REDIS_URL": "x",
        "LLM_CALL_CACHE_TTL": "-1",
        "LLM_CALL_MAX_BODY_BYTES": "1",
    }
    with pytest.raises(SettingsError) as caught:
        settings.read("0.0.0.0", Env(env))
    assert len(caught.value.faults) == 5


FALLBACKS = """
[upstream.a]
kind = "openai"
base_url = "http://a:1/v1"
breaker_failures = 3
[upstream.b]
kind = "openai"
base_url = "http://b:1/v1"
[model."x/*"]
upstream = "a"
fallbacks = ["y/*", "one"]
[model."y/*"]
upstream = "b"
name = "deep-*"
timeout = 9
[model.one]
upstream = "b"
retries = 0
price = { input = 1, output = 2.5 }
fallbacks = ["x/big"]
[model.best]
candidates = ["x/big", "x/small", "one"]
"""


def test_fallbacks_and_candidates_are_followed_one_step(tmp_path: Path) -> None:
    catalog = load(FALLBACKS, tmp_path)

    def names(model: str) -> list[tuple[str, str, str]]:
        return [(each.model, each.upstream.name, each.upstream_name) for each in catalog.find(model).targets]

    assert names("x/q") == [("x/*", "a", "q"), ("y/*", "b", "deep-q"), ("one", "b", "one")]
    assert names("one") == [("one", "b", "one"), ("x/big", "a", "big")]
    assert names("best") == [("x/big", "a", "big"), ("x/small", "a", "small"), ("one", "b", "one")]
    assert [catalog.find(name).learned for name in ("x/q", "one", "best")] == [False, False, True]
    one = catalog.find("one").targets[0]
    assert (one.retries, one.price) == (0, Price(1.0, 2.5))
    assert catalog.find("y/z").targets[0].timeout == 9
    assert catalog.upstreams["a"].breaker_failures == 3


def test_faults_of_routing(tmp_path: Path) -> None:
    text = (
        FALLBACKS
        + """
[model.p]
upstream = "a"
fallbacks = ["onee", "best", "y/*", "one", "one"]
retries = -1
price = { inptu = 1 }
[model.q]
candidates = []
[model.r]
candidates = ["one"]
upstream = "a"
"""
    )
    assert faults(text, tmp_path) == [
        'model."p".retries: is a whole number from 0 to 10',
        'model."p".price.inptu: unknown key; perhaps you meant "input"',
        'model."q".candidates: is a list of names, such as ["max/sonnet", "openai/gpt-4o"]',
        'model."r".upstream: unknown key; known: candidates',
        'model."p".fallbacks: there is no model "onee"; perhaps you meant "one"',
        'model."p".fallbacks: "best" has candidates itself; name them instead',
        'model."p".fallbacks: "y/*" holds a *, but the model\'s own name does not',
        'model."p".fallbacks: "one" is named twice',
    ]


def test_no_password_of_an_address_is_shown(tmp_path: Path) -> None:
    """Also of one that is malformed: that is when it is quoted."""
    shown = faults(GOOD.replace("http://a:1/v1/", "htp://user:hunter2@a/v1"), tmp_path)
    assert shown == ['upstream.a-b.base_url: "htp://[REDACTED]@a/v1" is not of the form http://HOST:PORT/v1']
    with pytest.raises(SettingsError) as caught:
        settings.read("127.0.0.1", Env({"LLM_CALL_MODELS": str(DEFAULT), "REDIS_URL": "http://u:hunter2@x"}))
    assert "hunter2" not in str(caught.value)
    assert "REDIS_URL" in str(caught.value)
