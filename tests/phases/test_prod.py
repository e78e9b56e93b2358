"""`invoke prod`: production images, and nothing published but the API."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.phases import paths
from tests.support.service import wait_until
from tests.support.stack import Checkout, checkout

SERVICES = ("llm-call-api", "claude-proxy", "egress", "redis")


@pytest.fixture(scope="module")
def prod(copy: Checkout) -> Iterator[Checkout]:
    copy.invoke("prod")
    yield copy


def test_health(prod: Checkout) -> None:
    paths.healthy(prod)


def test_a_request_reaches_the_cli_and_comes_back(prod: Checkout) -> None:
    paths.through_the_cli(prod)


def test_a_stream_reaches_the_cli_and_comes_back(prod: Checkout) -> None:
    paths.streamed_through_the_cli(prod)


def test_the_cache_is_redis(prod: Checkout) -> None:
    paths.cached_in_redis(prod)


def test_no_key_no_answer(prod: Checkout) -> None:
    paths.turned_away_without_a_key(prod)


def test_only_the_api_is_published(prod: Checkout) -> None:
    ports = {each["service"]: each["ports"] for each in prod.json("status")["services"]}
    assert [service for service, published in ports.items() if published] == ["llm-call-api"]


@pytest.mark.parametrize("service", SERVICES)
def test_services_run_hardened(prod: Checkout, service: str) -> None:
    (found,) = json.loads(prod.docker("inspect", prod.container(service)))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Init"] is True
    assert min(host["PidsLimit"], host["Memory"], host["NanoCpus"]) > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    assert not found["Config"]["User"].startswith(("0", "root"))


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_is_in_the_environment(prod: Checkout, service: str) -> None:
    told = prod.docker("inspect", prod.container(service)) + prod.invoke("logs", "--service", service).stdout
    values = [path.read_text().strip() for path in (prod.root / "secrets").rglob("*") if path.is_file()]
    assert [value for value in values if value and value in told] == []


def test_data_survives_down_and_up(prod: Checkout) -> None:
    redis = ("exec", prod.container("redis"), "redis-cli")
    assert prod.docker(*redis, "set", "kept", "yes").strip() == "OK"
    prod.invoke("down")
    prod.invoke("prod")
    assert prod.docker("exec", prod.container("redis"), "redis-cli", "get", "kept").strip() == "yes"


def test_two_checkouts_side_by_side(prod: Checkout, tmp_path_factory: pytest.TempPathFactory) -> None:
    with checkout(tmp_path_factory.mktemp("second")) as other:
        other.invoke("prod")
        assert other.json("status")["project"] != prod.json("status")["project"]
        assert other.ask("GET", "/health")[0] == 200
        other.invoke("down")
    paths.healthy(prod)


def test_a_service_that_cannot_start_is_named_and_taken_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    with checkout(tmp_path_factory.mktemp("broken")) as broken:
        models = broken.root / "config/models.toml"
        models.write_text(models.read_text() + '\n[model."x"]\nupstream = "nowhere"\n')
        refused = broken.invoke("prod", status=10)
        assert "llm-call-api" in refused.stderr
        assert "nowhere" in refused.stderr
        assert broken.json("status")["services"] == []


def test_what_must_not_be_in_production_is_refused(prod: Checkout) -> None:
    overlay = prod.root / "compose/prod.yaml"
    text = overlay.read_text()
    overlay.write_text(
        text.replace("  redis:\n", '  redis:\n    ports: ["6379:6379"]\n    environment: { API_KEY: x }\n')
    )
    try:
        for verb in (("config", "--overlay", "prod"), ("prod",)):
            refused = prod.invoke(*verb, status=3)
            assert "services.redis.ports: an internal port is published" in refused.stderr
            assert "services.redis.environment.API_KEY: a secret is in the environment" in refused.stderr
    finally:
        overlay.write_text(text)
    difference = prod.json("config", "--diff", "dev")["from prod to dev"]
    assert "+ services.llm-call-api.environment.LOG_LEVEL: debug" in difference
    paths.healthy(prod)


def test_a_crash_after_a_reload_is_a_crash(prod: Checkout) -> None:
    """The engine takes a container that was sent any signal for stopped by hand; the restart policy has to outdo that."""
    container = prod.container("llm-call-api")
    prod.docker("kill", "--signal", "HUP", container)
    wait_until(lambda: "models reloaded" in prod.invoke("logs", "--service", "llm-call-api").stdout, "the reload")
    os.kill(int(prod.docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)
    wait_until(
        lambda: prod.docker("inspect", "--format", "{{.RestartCount}}", container).strip() == "1", "the restart", 30
    )

    def answers() -> bool:
        try:
            return bool(prod.ask("GET", "/health")[0] == 200)
        except OSError:
            return False

    wait_until(answers, "the API", 30)


def test_a_key_counts_and_is_revoked_without_a_restart(prod: Checkout) -> None:
    """Also when an editor replaces the file instead of writing into it."""
    path, key = prod.root / "secrets/api/api_keys", f"k-{secrets.token_hex(16)}"
    earlier = path.read_text()

    def save(text: str) -> None:
        path.unlink()
        path.write_text(text)

    def status() -> int:
        return int(prod.ask("GET", "/v1/models", authorization=f"Bearer {key}")[0])

    assert status() == 401
    save(earlier + f"hub:{hashlib.sha256(key.encode()).hexdigest()} models=max/*\n")
    try:
        wait_until(lambda: status() == 200, "the new key")
    finally:
        save(earlier)
    wait_until(lambda: status() == 401, "its end")


def test_large_requests_never_exhaust_the_gateway(prod: Checkout) -> None:
    """More of them at once than its memory could hold: some are told to come back, none takes the others down."""
    restarts = prod.docker("inspect", "--format", "{{.RestartCount}}", prod.container("llm-call-api")).strip()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 19_000_000}}
    large = paths.chat("openai/gpt-test", "x") | {"messages": [{"role": "user", "content": [image]}]}
    values = {"model": "openai/gpt-test", "messages": [[]] * 6_000_000}
    with ThreadPoolExecutor(12) as clients:
        asking = [clients.submit(prod.ask, "POST", "/v1/chat/completions", large) for _ in range(24)]
        statuses = {each.result()[0] for each in asking}
    assert 200 in statuses
    assert statuses <= {200, 503}
    assert prod.ask("POST", "/v1/chat/completions", values)[0] == 413
    assert prod.docker("inspect", "--format", "{{.RestartCount}}", prod.container("llm-call-api")).strip() == restarts
