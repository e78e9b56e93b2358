"""Secrets that change while the gateway runs: Redis's password at the next connection, keys of providers on SIGHUP."""

from __future__ import annotations

import secrets
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.services.test_api import AUTH, gateway, start
from tests.services.test_api import folder as folder  # a fixture, by the name that it has there
from tests.services.test_api import upstream as upstream
from tests.support.redis_server import Server
from tests.support.service import Service, chat, wait_until

USER = "gateway"


@pytest.fixture
def redis() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: a socket's path has a limit of 107 bytes
        server = Server(Path(name))
        server.start()
        yield server
        server.kill()


def admit(client: Redis, password: str) -> None:
    """Make this the only password of the gateway's user, and end the connections that it has."""
    client.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{password}", "~llm-call:*", "+@all", "-@dangerous")
    client.execute_command("CLIENT", "KILL", "USER", USER)


def dependency(api: Service, name: str) -> Any:
    return api.get("/health/ready")[1]["dependencies"][name]


def redis_is(api: Service, state: str) -> None:
    wait_until(lambda: dependency(api, "redis")["state"] == state, f"Redis to be {state}")


def cached(api: Service) -> str:
    return str(api.post("/v1/chat/completions", chat(temperature=0), **AUTH)[2]["x-llm-call-cache"])


def test_a_new_password_of_redis_needs_no_restart(folder: Path, redis: Server, tmp_path: Path) -> None:
    file = tmp_path / "redis_password"
    old, new = (secrets.token_hex(16) for _ in range(2))
    file.write_text(old + "\n")
    with redis.client() as admin:
        admit(admin, old)
        env = {"REDIS_URL": redis.url, "REDIS_USERNAME": USER, "REDIS_PASSWORD_FILE": str(file)}
        with gateway(folder, **env) as api:
            assert cached(api) == "miss"
            admit(admin, new)
            redis_is(api, "failed")
            assert cached(api) == "off"
            assert "invalid username-password" in dependency(api, "redis")["reason"]
            assert str(file) not in str(dependency(api, "redis")), "the log's business alone"
            line = f'"level":"warning".*working without Redis.*invalid.*user {USER}, password of {file}'
            wait_until(lambda: api.find(line), "the reason in the log")
            file.write_text(new + "\n")
            redis_is(api, "ok")
            wait_until(lambda: cached(api) == "hit", "the cache")
            file.unlink()
            admin.execute_command("CLIENT", "KILL", "USER", USER)
            redis_is(api, "failed")
            wait_until(lambda: api.find(f"the password cannot be read.*{file}"), "the reason in the log")
            file.write_text(new)
            redis_is(api, "ok")
            assert not {old, new} & set(api.output.split('"'))
            assert "Traceback" not in api.output


def test_a_redis_that_forgot_its_users_is_used_again_when_it_knows_them(
    folder: Path, redis: Server, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("pw")
    env = {"REDIS_URL": redis.url, "REDIS_USERNAME": USER, "REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    with redis.client() as admin:
        admit(admin, "pw")
    with gateway(folder, **env) as api:
        redis_is(api, "ok")
        redis.kill()
        redis.start()
        redis_is(api, "failed")
        with redis.client() as admin:
            admit(admin, "pw")
        redis_is(api, "ok")


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({"REDIS_USERNAME": USER}, "REDIS_USERNAME: has no password"),
        ({"REDIS_PASSWORD": "p", "REDIS_URL": "redis://:q@h:1/0"}, "REDIS_URL: names a user or password"),
        ({"REDIS_PASSWORD_FILE": "/nowhere"}, "REDIS_PASSWORD_FILE: cannot read /nowhere"),
    ],
)
def test_a_login_that_cannot_be_right_is_told_at_the_start(env: dict[str, str], place: str) -> None:
    code, lines = start("--port", "0", **{"REDIS_URL": "redis://h:1/0", **env})
    assert (code, len(lines)) == (78, 1)
    assert lines[0].startswith(f"llm-call-api: {place}")
    assert ":q@" not in lines[0]


def test_a_new_key_of_a_provider_counts_from_sighup_on(folder: Path, upstream: Service, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first")

    def told(api: Service) -> str:
        assert api.post("/v1/chat/completions", chat(), **AUTH)[0] == 200
        return str(upstream.get("/last")[1]["headers"]["authorization"])

    with gateway(folder, DOUBLE_KEY_FILE=str(file)) as api:
        assert told(api) == "Bearer first"
        file.write_text("second")
        assert told(api) == "Bearer first"
        api.process.send_signal(signal.SIGHUP)
        wait_until(lambda: told(api) == "Bearer second", "the new key")
        file.unlink()
        api.process.send_signal(signal.SIGHUP)
        wait_until(lambda: api.find("models not reloaded: DOUBLE_KEY_FILE: cannot read"), "the refusal")
        assert told(api) == "Bearer second"


def test_a_key_that_was_missing_is_found_on_sighup(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("")
    with gateway(folder, NO_SUCH_KEY_FILE=str(file)) as api:
        assert api.post("/v1/chat/completions", chat("keyless"), **AUTH)[0] == 503
        file.write_text("now")
        api.process.send_signal(signal.SIGHUP)
        wait_until(lambda: api.post("/v1/chat/completions", chat("keyless"), **AUTH)[0] == 200, "the key to be used")
        assert "keyless" not in api.get("/health/ready")[1]["dependencies"]
