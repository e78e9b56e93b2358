"""Redis in its container: who may do what, and what it keeps."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from redis import AuthenticationError, Redis, RedisError
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoPermissionError

import docker
import shipyard
from llm_call.api.cache import PREFIX, Cache, Keys
from llm_call.api.learning import Learner
from llm_call.api.store import Store
from shipyard import acl
from shipyard.models import Project
from tests.support.images import await_health, running
from tests.support.service import wait_until

#: Each would show, change or end what is not the API's business.
REFUSED = (
    "ACL LIST",
    "ACL SETUSER x",
    "ACL WHOAMI",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT KILL TYPE normal",
    "CLIENT LIST",
    "CLIENT NO-EVICT on",
    "CLIENT PAUSE 100000",
    "CLUSTER INFO",
    "CONFIG GET *",
    "CONFIG REWRITE",
    "CONFIG SET dir /tmp",
    "DBSIZE",
    "DEBUG SLEEP 0",
    "DEL llm-call:x",
    "DUMP llm-call:x",
    "EVAL return(1) 0",
    "FAILOVER",
    "FCALL f 0",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION LIST",
    "GET other",
    "HSET other a 1",
    "INFO",
    "KEYS *",
    "LATENCY RESET",
    "MEMORY DOCTOR",
    "MGET llm-call:x other",
    "MIGRATE 127.0.0.1 1 llm-call:x 0 1",
    "MODULE LIST",
    "MONITOR",
    "MOVE llm-call:x 1",
    "MULTI",
    "PSYNC ? -1",
    "PUBLISH channel x",
    "RANDOMKEY",
    "RENAME llm-call:x llm-call:y",
    "REPLICAOF NO ONE",
    "RESTORE llm-call:x 0 x",
    "SAVE",
    "SCAN 0",
    "SCRIPT FLUSH",
    "SELECT 1",
    "SET other 1",
    "SHUTDOWN NOSAVE",
    "SLAVEOF NO ONE",
    "SLOWLOG GET",
    "SORT llm-call:x",
    "SUBSCRIBE channel",
    "SWAPDB 0 1",
    "SYNC",
    "WAIT 0 0",
)


class Server:
    """A container of Redis with the users of a checkout, and one of the test's own who may ask what was refused."""

    def __init__(self, container: Any, passwords: dict[str, str]) -> None:
        self.container, self.passwords = container, passwords

    @property
    def port(self) -> int:
        self.container.reload()
        return int(self.container.ports["6379/tcp"][0]["HostPort"])

    def client(self, user: str, password: str | None = None) -> Redis:
        given = self.passwords[user] if password is None else password
        return Redis(port=self.port, username=user, password=given, decode_responses=True)

    def url(self, user: str) -> str:
        return f"redis://{user}:{self.passwords[user]}@127.0.0.1:{self.port}/0"


@pytest.fixture(scope="module")
def image(project: Project, engine: Any) -> str:
    return str(shipyard.images.build(project, engine, shipyard.images.Request(images=("redis",)))[0].reference)


@pytest.fixture
def checkout(project: Project, tmp_path: Path) -> Project:
    """A checkout of the test's own, with its secrets."""
    found = dataclasses.replace(project, root=tmp_path)
    shipyard.secrets.init(found)
    return found


@contextmanager
def served(client: docker.DockerClient, image: str, conf: Path, **options: Any) -> Iterator[Any]:
    volumes = {str(conf): {"bind": "/etc/redis/conf.d", "mode": "ro"}}
    tmpfs = {"/tmp": "size=1m", "/data": "size=64m,uid=10002,gid=10002"}
    given = {"volumes": volumes, "tmpfs": tmpfs, "ports": {"6379/tcp": ("127.0.0.1", None)}, **options}
    with running(client, image, **given) as container:
        yield container


@pytest.fixture
def server(client: docker.DockerClient, image: str, checkout: Project) -> Iterator[Server]:
    folder = shipyard.secrets.folder(checkout)
    passwords = {
        user: acl.password(user, (folder / name).read_text()) for user, name in shipyard.secrets.PASSWORDS.items()
    }
    passwords["operator"] = secrets.token_hex(16)
    operator = folder / "redis/operator.conf"
    operator.write_text(f"user operator on #{acl.digest(passwords['operator'])} ~* &* +@all\n")
    shipyard.secrets.init(checkout)  # gives the file to Redis's group
    with served(client, image, folder / "redis") as container:
        await_health(container)
        yield Server(container, passwords)


def test_the_api_may_do_what_it_does(server: Server) -> None:
    """The API's own code, with what Redis noted of refusals: there must be none."""

    async def work() -> None:
        clients = [AsyncRedis.from_url(server.url(acl.API)) for _ in range(2)]
        stores = [Store(each) for each in clients]
        cache = Cache(stores[0], 60, 1000)
        for streamed in (False, True):
            keys = Keys(f"{PREFIX}x", f"{PREFIX}x:y", streamed, False)
            await cache.put(keys, "somebody", b"an answer")
            kept = await cache.get(keys)
            assert kept and (kept.upstream, kept.streamed, kept.body) == ("somebody", streamed, b"an answer")
        first, second = (Learner(each, rng=random.Random(1)) for each in stores)
        first.record("auto", "a", "ident", ok=True, seconds=1.0, cost=0.01)
        second.record("auto", "a", "another", ok=True, seconds=1.0, cost=0.01)
        for learner in (first, second, first):
            await learner.exchange()
        assert second.report({"auto": ["a"]})["routes"]["auto"]["arms"]["a"]["pulls"] == 2
        assert await second.rate("ident", 0.5)
        for store in stores:
            await store.check()
            assert store.available
            await store.close()

    asyncio.run(work())
    with server.client(acl.API) as client:
        assert client.hset("llm-call:routing:1:route:auto", "gone", "x") and client.hdel(
            "llm-call:routing:1:route:auto", "gone"
        )
    with server.client("operator") as client:
        assert client.execute_command("ACL", "LOG") == []


def test_the_api_may_do_nothing_else(server: Server) -> None:
    allowed = []
    for words in REFUSED:
        # A connection each: SUBSCRIBE and MONITOR would change what the next reply means.
        with server.client(acl.API) as client:
            try:
                client.execute_command(*words.split())
            except NoPermissionError:
                continue
            except RedisError as error:
                if "DEBUG command not allowed" not in str(error):  # asked before the user's rights are
                    allowed.append(f"{words}: {error}")
            else:
                allowed.append(words)
    assert allowed == []
    with server.client("operator") as client:  # the control: the commands exist, and others may use them
        assert client.execute_command("CONFIG", "GET", "maxmemory")
        assert client.execute_command("SCAN", "0")


def test_no_dangerous_command_is_among_those_that_are_allowed(server: Server) -> None:
    """By Redis's own categories; INFO and LATENCY LATEST, which only show figures, are the exporter's."""
    with server.client("operator") as client:
        dangerous = {f"+{name}" for name in client.execute_command("ACL", "CAT", "dangerous")}
        scripting = {f"+{name}" for name in client.execute_command("ACL", "CAT", "scripting")}
    assert {"+flushall", "+keys", "+config|set"} <= dangerous  # the control
    assert [each for each in acl.USERS[acl.API][1] if each in dangerous | scripting] == []
    harmless = {"+info", "+latency|latest", "+slowlog|len"}
    assert [each for each in acl.USERS[acl.EXPORTER][1] if each in (dangerous | scripting) - harmless] == []


def test_the_exporter_sees_figures_and_no_data(server: Server) -> None:
    with server.client(acl.API) as client:
        client.set("llm-call:x", "1")
    with server.client(acl.EXPORTER) as client:
        assert client.info("memory")["maxmemory"] == 256 * 1024 * 1024
        assert client.info("memory")["maxmemory_policy"] == "allkeys-lru"
        assert client.info("persistence")["aof_enabled"] == 1
        for words in ("GET llm-call:x", "SET x 1", "CONFIG GET *", "CLIENT LIST", "SLOWLOG GET", "KEYS *", "FLUSHALL"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*words.split())


def test_nobody_is_let_in_without_the_password(server: Server) -> None:
    for user, password in product(("default", acl.API, acl.EXPORTER), ("", "none", "wrong")):
        with server.client(user, password) as client, pytest.raises(AuthenticationError):
            client.get("llm-call:x")


def test_the_user_of_the_health_check_may_say_ping(server: Server) -> None:
    with server.client("health", "none") as client:
        assert client.ping()
        for words in ("GET llm-call:x", "INFO", "CONFIG GET *", "CLIENT LIST", "ACL WHOAMI"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*words.split())


def test_an_earlier_password_is_good_until_it_is_taken_away(
    client: docker.DockerClient, image: str, checkout: Project
) -> None:
    folder, old, new = shipyard.secrets.folder(checkout), secrets.token_hex(16), secrets.token_hex(16)
    both = {user: (acl.digest(new), acl.digest(old)) for user in acl.USERS}
    shipyard.secrets.put(folder, "redis/users.conf", acl.users_conf(both))
    with served(client, image, folder / "redis") as container:
        await_health(container)
        server = Server(container, {})
        for password in (old, new):
            with server.client(acl.API, password) as one:
                assert one.ping()
        shipyard.secrets.put(
            folder, "redis/users.conf", acl.users_conf({user: each[:1] for user, each in both.items()})
        )
        container.restart(timeout=8)
        wait_until(lambda: container.reload() or container.status == "running", "Redis")
        await_health(container)
        with server.client(acl.API, new) as one:
            assert one.ping()
        with server.client(acl.API, old) as one, pytest.raises(AuthenticationError):
            one.ping()


def test_without_users_only_the_container_itself_is_let_in(
    client: docker.DockerClient, image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    with served(client, image, tmp_path) as container:
        await_health(container)
        assert container.exec_run(["redis-cli", "set", "key", "value"]).output.strip() == b"OK"
        with Redis(port=Server(container, {}).port) as outside, pytest.raises(RedisError, match="protected mode"):
            outside.get("key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user llm-call-api on #tooshort ~* +@all", "Error in user declaration 'llm-call-api'"),
        ("user x +nosuchcommand", "'+nosuchcommand' for the user named 'x'"),
        ("usr x", ">>> 'usr x'"),
    ],
)
def test_a_broken_file_ends_the_start_with_what_is_broken(
    client: docker.DockerClient, image: str, tmp_path: Path, text: str, said: str
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "users.conf").write_text(f"{text}\n")
    with served(client, image, tmp_path) as container:
        assert container.wait(timeout=30)["StatusCode"] == 1
        assert said in container.logs().decode()


def test_a_file_that_redis_may_not_read_ends_the_start(
    client: docker.DockerClient, image: str, checkout: Project
) -> None:
    folder = shipyard.secrets.folder(checkout) / "redis"
    (folder / "users.conf").chmod(0o400)
    with served(client, image, folder) as container:
        assert container.wait(timeout=30)["StatusCode"] == 1
        assert "users.conf" in container.logs().decode()


def test_a_stop_keeps_every_write_that_was_confirmed(
    client: docker.DockerClient, image: str, checkout: Project
) -> None:
    """Several clients write until the connection ends; whatever they were told is there must be there afterwards."""
    folder = shipyard.secrets.folder(checkout)
    password = (folder / "api/redis_password").read_text().strip()
    volume = client.volumes.create()

    def write(server: Server, number: int) -> list[str]:
        confirmed = []
        with server.client(acl.API, password) as one:
            try:
                for count in range(10**9):
                    key = f"llm-call:{number}:{count}"
                    one.set(key, key)
                    confirmed.append(key)
            except RedisError:
                return confirmed
        return confirmed

    try:
        options: dict[str, Any] = {
            "tmpfs": {"/tmp": "size=1m"},
            "volumes": {
                volume.name: {"bind": "/data", "mode": "rw"},
                str(folder / "redis"): {"bind": "/etc/redis/conf.d", "mode": "ro"},
            },
        }
        with served(client, image, folder / "redis", **options) as container, ThreadPoolExecutor() as pool:
            await_health(container)
            server = Server(container, {})
            writers = [pool.submit(write, server, number) for number in range(3)]
            with server.client(acl.API, password) as one:
                wait_until(lambda: one.get("llm-call:0:500") is not None, "some writes")
            container.stop(timeout=8)
            container.reload()
            assert container.attrs["State"]["ExitCode"] == 0
            confirmed = [key for each in writers for key in each.result()]
        with served(client, image, folder / "redis", **options) as container:
            await_health(container)
            with Server(container, {}).client(acl.API, password) as one:
                assert [key for key in confirmed if one.get(key) != key] == []
    finally:
        volume.remove(force=True)
