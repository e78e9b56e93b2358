"""The balancer at work: instances come, go, hang and crash behind it, and clients notice as little as can be."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard.models import Project
from tests.support.balancer import CHAT, EMBEDDINGS, Balancer, Instance, balancer, cluster, instance
from tests.support.crowds import crowd
from tests.support.images import await_health, running
from tests.support.service import wait_until

#: What the image holds is looked at on every platform (test_every_image.py).
pytestmark = pytest.mark.native("it counts requests within moments that emulated instances behind the balancer miss")


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "openai/gpt", "messages": [], **fields}).encode()


@pytest.fixture(scope="module")
def images(project: Project, engine: Any) -> dict[str, str]:
    built = shipyard.images.build(project, engine, shipyard.images.Request(images=("api", "balancer")))
    return {result.name: result.reference for result in built}


@pytest.fixture(scope="module")
def network(client: docker.DockerClient) -> Iterator[str]:
    made = client.networks.create(f"balancer-test-{secrets.token_hex(4)}")
    yield str(made.name)
    made.remove()


@pytest.fixture(scope="module")
def three(client: docker.DockerClient, images: dict[str, str], network: str) -> Iterator[Balancer]:
    with cluster(client, images, network, 3) as found:
        yield found


@pytest.fixture
def entrance(three: Balancer) -> Balancer:
    """A balancer with three instances, whatever the test before did to them."""
    for each in three.instances:
        each.container.reload()
        if each.container.status != "running":
            each.container.start()
        wait_until(each.ready, "the instance", 20)  # before its count: a dead one may still be counted
    three.await_count(3)
    assert (
        three.ask("GET", "/v1/models")[0] == 200
    )  # from now on clients without a key are known: the instances ask for none
    return three


@contextlib.contextmanager
def never_stopping(entrance: Balancer, **request: Any) -> Iterator[list[Any]]:
    """A client that asks all the time; yields what it got that was not 200."""
    failed: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answer = entrance.ask("POST", CHAT, chat(temperature=1), **request)
            if answer[0] != 200:
                failed.append(answer)

    with ThreadPoolExecutor() as pool:
        running_ = [pool.submit(ask) for _ in range(2)]
        try:
            yield failed
        finally:
            done.set()
    assert [each.result() for each in running_] == [None, None]


def test_without_any_instance_it_serves_and_finds_one_that_comes(
    client: docker.DockerClient, images: dict[str, str], network: str
) -> None:
    alias = f"late-{secrets.token_hex(4)}"
    with balancer(client, images["balancer"], network, alias) as found:
        assert found.ask("GET", "/health/balancer") == (200, {"status": "ok", "instances": 0})
        with found.open("POST", CHAT, chat()) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            error = json.loads(response.read())["error"]
        assert (error["type"], error["param"], error["code"]) == ("server_error", None, "no_instance")
        with instance(client, images["api"], network, [alias]):
            found.await_count(1)
            assert found.ask("POST", CHAT, chat())[0] == 200
        found.await_count(0)


def test_a_peer_of_another_network_cannot_take_the_name(
    client: docker.DockerClient, images: dict[str, str], network: str
) -> None:
    """Docker's DNS knows a name with its network's: without it, who else has the alias would get clients' keys."""
    alias = f"api-{secrets.token_hex(4)}"
    elsewhere = client.networks.create(f"peers-{secrets.token_hex(4)}")
    try:
        with (
            balancer(client, images["balancer"], network, f"{alias}.{network}") as found,
            instance(client, images["api"], str(elsewhere.name), [alias]) as peer,
        ):
            elsewhere.connect(found.container)
            with instance(client, images["api"], network, [alias]):
                found.await_count(1)
            found.await_count(0)
            assert found.ask("POST", CHAT, chat())[0] == 503
            assert peer.seen("requests") == 0
    finally:
        elsewhere.remove()


def test_it_runs_as_a_user_of_its_own(entrance: Balancer) -> None:
    table = entrance.container.top(ps_args="-eo pid,uid,args")
    assert {uid for _, uid, command in table["Processes"] if "haproxy" in command} == {"10005"}


def test_an_instance_is_asked_for_nothing_new_before_it_leaves(entrance: Balancer) -> None:
    """What a rolling change does: 404 at the health check, a moment for the balancer to see it, stop, a new one."""
    leaving = entrance.instances[0]
    with never_stopping(entrance) as failed:
        leaving.answer(404)
        entrance.await_count(2)
        leaving.container.kill()
        leaving.container.start()
        wait_until(leaving.ready, "the new instance", 20)
        entrance.await_count(3)
        before = leaving.seen("requests")
        wait_until(lambda: leaving.seen("requests") > before, "requests at the new instance", 10)
    assert failed == []


def test_a_stream_outlives_the_last_word_of_its_instance(entrance: Balancer) -> None:
    with entrance.open("POST", CHAT, chat(), wish={"chunks": 6, "gap": 0.5}) as stream:
        leaving = entrance.busy()
        leaving.answer(404)
        entrance.await_count(2)
        before = leaving.seen("requests")
        assert {entrance.ask("POST", CHAT, chat())[0] for _ in range(20)} == {200}
        assert leaving.seen("requests") == before
        assert stream.read().endswith(b"data: 5\n\n")
    # The first 404 did it, not three failures.
    assert "is stopping" in entrance.container.logs(stdout=False).decode()
    leaving.answer(200)


def test_the_least_busy_instance_is_next(entrance: Balancer) -> None:
    quiet = entrance.instances[1:]
    wish = {"chunks": 2, "gap": 60}
    with ExitStack() as streams, ThreadPoolExecutor() as pool:

        def open_(count: int) -> None:
            for stream in pool.map(lambda _: entrance.open("POST", CHAT, chat(), wish=wish), range(count)):
                streams.enter_context(stream)

        for each in quiet:
            each.answer(404)
        entrance.await_count(1)
        open_(4)
        for each in quiet:
            each.answer(200)
        entrance.await_count(3)
        open_(8)
        wait_until(lambda: entrance.total("open") == 12, "twelve streams", 10)
        assert [each.seen("open") for each in entrance.instances] == [4, 4, 4]


def test_a_killed_instance_costs_no_later_request(entrance: Balancer) -> None:
    """Requests that find a dead instance go elsewhere, also those that must not be sent twice: they were not sent."""
    entrance.instances[0].container.kill()
    answers = [entrance.ask("POST", CHAT, chat(temperature=1)) for _ in range(30)]
    assert {status for status, _ in answers} == {200}


REPEATABLE = {
    "embeddings": ("POST", EMBEDDINGS, b'{"model": "m", "input": "x"}'),
    "temperature 0": ("POST", CHAT, chat(temperature=0)),
    "temperature 0.0": ("POST", CHAT, b'{"messages": [], "model": "ollama/x", "temperature": 0.00}'),
    "seed": ("POST", CHAT, chat(seed=7, temperature=1)),
    "GET": ("GET", "/v1/models", None),
}
ONCE = {
    "chat": ("POST", CHAT, chat()),
    "temperature 0.7": ("POST", CHAT, chat(temperature=0.7)),
    "temperature 1e0": ("POST", CHAT, b'{"messages": [], "model": "openai/gpt", "temperature": 1e0}'),
    "no seed": ("POST", CHAT, chat(seed=None)),
    "the CLI": ("POST", CHAT, chat(temperature=0, model="max/opus")),
    "a route": ("POST", CHAT, chat(temperature=0, model="auto")),
    "a session": ("POST", CHAT, chat(temperature=0, session_id="s")),
    "nested": ("POST", CHAT, chat(messages=[{"temperature": 0, "seed": 1}])),
    "another path": ("POST", "/v1/files", chat(temperature=0)),
    "longer than the buffer": ("POST", EMBEDDINGS, b'{"model": "m", "input": "%s"}' % (b"x" * 70_000)),
    "DELETE": ("DELETE", "/v1/models", None),
}


@pytest.mark.parametrize("request_", REPEATABLE.values(), ids=REPEATABLE)
def test_what_may_be_repeated_is_and_not_without_end(
    entrance: Balancer, request_: tuple[str, str, bytes | None]
) -> None:
    before = entrance.total()
    status, body = entrance.ask(*request_, wish={"close": True})
    assert (status, body["error"]["code"]) == (502, "instance_lost")
    assert entrance.total() == before + 4  # once, and three times again


@pytest.mark.parametrize("request_", ONCE.values(), ids=ONCE)
def test_what_may_have_had_an_effect_is_sent_once(entrance: Balancer, request_: tuple[str, str, bytes | None]) -> None:
    before = entrance.total()
    status, body = entrance.ask(*request_, wish={"close": True})
    assert (status, body["error"]["code"], body["error"]["param"]) == (502, "instance_lost", None)
    assert entrance.total() == before + 1


@pytest.mark.parametrize(
    ("model", "status", "again"), [("openai/gpt", 200, 1), ("max/opus", 502, 0)], ids=["repeatable", "not repeatable"]
)
def test_an_instance_is_killed_while_it_has_a_request(entrance: Balancer, model: str, status: int, again: int) -> None:
    others = entrance.instances[:]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(entrance.ask, "POST", CHAT, chat(model=model, temperature=0), wish={"wait": 5})
        others.remove(lost := entrance.busy())
        before = sum(each.seen("requests") for each in others)
        lost.container.kill()
        assert answer.result()[0] == status
    assert sum(each.seen("requests") for each in others) == before + again


def test_a_hung_instance_leaves_and_comes_back(entrance: Balancer) -> None:
    hung = entrance.instances[0]
    hung.container.pause()
    try:
        # Three checks of 1 s make it leave; another one that is late on a busy machine leaves sooner, and comes back.
        time.sleep(4)
        entrance.await_count(2)
        assert {entrance.ask("POST", CHAT, chat())[0] for _ in range(10)} == {200}
    finally:
        hung.container.unpause()
    entrance.await_count(3, 8)


def test_a_stream_arrives_event_by_event(entrance: Balancer) -> None:
    """The second event is not sent before the first one was read: a balancer that buffers would hang here."""
    with entrance.open("POST", CHAT, chat(), wish={"chunks": 4, "gap": 0.5}) as response:
        pieces = []
        while piece := response.read1(65536):
            pieces.append(piece)
    assert pieces == [f"data: {number}\n\n".encode() for number in range(4)]


@pytest.mark.parametrize("wish", [{"wait": 60}, {"chunks": 2, "gap": 60}], ids=["before the answer", "in a stream"])
def test_a_client_that_leaves_ends_its_request(entrance: Balancer, wish: dict[str, Any]) -> None:
    before = entrance.total("abandoned")
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nx-wish: {json.dumps(wish)}\r\n\r\n{{}}"
    left = entrance.connect(head.encode())
    entrance.busy()
    left.close()
    wait_until(lambda: entrance.total("abandoned") == before + 1, "the instance to notice")


def test_a_request_passes_as_it_is(entrance: Balancer) -> None:
    sent = {
        "host": "somewhere.example", "authorization": "Bearer x", "x_request_id": "r-1", "x_forwarded_for": "192.0.2.1",
        "cookie": "a=b", "forwarded": "for=x", "accept_encoding": "identity", "traceparent": "00-1", "content_type": "a/b",
    }  # fmt: skip
    _, answer = entrance.ask("POST", "/v1/x?y=%7E&z", b"{}", **sent)
    assert answer["line"] == "POST /v1/x?y=%7E&z HTTP/1.1"
    # Nothing is added but that the connection is for this request alone.
    expected = {name.replace("_", "-"): value for name, value in sent.items()}
    assert dict(answer["headers"]) == {**expected, "content-length": "2", "connection": "close"}


def test_a_large_body_passes(entrance: Balancer) -> None:
    assert entrance.ask("POST", CHAT, b"x" * 25_000_000)[1]["bytes"] == 25_000_000


def test_a_large_head_passes(entrance: Balancer) -> None:
    _, answer = entrance.ask("GET", "/v1/models", x_large="y" * 32_000)
    assert ["x-large", "y" * 32_000] in answer["headers"]


CHUNK = b"5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("head", "first", "rest", "size"),
    [
        ("content-length: 100000", b"x" * 1000, b"x" * 99_000, 100_000),
        ("transfer-encoding: chunked", CHUNK, CHUNK + b"0\r\n\r\n", 10),
    ],
    ids=["long", "chunked"],
)
def test_what_cannot_be_repeated_is_not_held_back(
    entrance: Balancer, head: str, first: bytes, rest: bytes, size: int
) -> None:
    """The rest is not sent before the instance has the beginning."""
    with entrance.connect(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n\r\n".encode()) as sender:
        sender.sendall(first)
        there = entrance.busy()
        wait_until(lambda: there.seen("received") > 0, "the beginning of the body", 10)
        sender.sendall(rest)
        answer = http_body(sender)
    assert json.loads(answer)["bytes"] == size


def test_a_slow_short_body_is_waited_for(entrance: Balancer) -> None:
    """Or else it could not be repeated: here every instance is lost, so that it comes to four."""
    before = entrance.total()
    body = chat(temperature=0)
    lines = ["host: x", "connection: close", 'x-wish: {"close": true}', f"content-length: {len(body)}"]
    with entrance.connect("\r\n".join([f"POST {CHAT} HTTP/1.1", *lines, "", ""]).encode()) as sender:
        for byte in body[:-1]:
            sender.sendall(bytes([byte]))
        assert entrance.total() == before  # none has seen its head
        sender.sendall(body[-1:])
        assert json.loads(http_body(sender))["error"]["code"] == "instance_lost"
    assert entrance.total() == before + 4


@pytest.mark.parametrize("size", [40, 100_000], ids=["small", "large"])
def test_a_client_that_waits_for_100_is_told_to_go_on(entrance: Balancer, size: int) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\nexpect: 100-continue\r\n\r\n"
    with entrance.connect(head.encode()) as sender:
        assert sender.recv(100).startswith(b"HTTP/1.1 100")
        sender.sendall(b"x" * size)
        assert json.loads(http_body(sender))["bytes"] == size


def http_body(connection: socket.socket) -> bytes:
    """The body of the one answer until the connection ends."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")[2]


BODY = b"content-length: 2\r\n\r\n{}"
REFUSED = {
    "CONNECT": (405, b"CONNECT 10.0.0.1:443 HTTP/1.1\r\nhost: 10.0.0.1:443\r\n\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    "two hosts": (400, b"GET http://elsewhere.example/v1/models HTTP/1.1\r\nhost: x\r\n\r\n"),
    "two lengths": (400, b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n" + BODY),
    "length with a sign": (400, b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: +2\r\n\r\n{}"),
    "another coding": (400, b"POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n" + BODY),
    "blank before the colon": (400, b"POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n" + BODY),
    "head of 80 KiB": (400, b"GET /v1/x HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 81920 + b"\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "request_"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_http_reaches_no_instance(entrance: Balancer, status: int, request_: bytes) -> None:
    before = entrance.total()
    answer = entrance.raw(request_)
    assert {int(found) for found in re.findall(rb"^HTTP/1\.1 (\d+)", answer, re.MULTILINE)} == {status}, answer
    assert entrance.total() == before


def test_an_absolute_uri_names_no_other_host(entrance: Balancer) -> None:
    request = b"GET http://10.0.0.1/v1/models HTTP/1.1\r\nhost: 10.0.0.1\r\nconnection: close\r\n\r\n"
    assert json.loads(entrance.raw(request).partition(b"\r\n\r\n")[2])["instance"]


def test_a_smuggled_request_is_a_body(entrance: Balancer) -> None:
    """Chunked and a length: the length is dropped, so that nobody can count otherwise."""
    before = entrance.total()
    hidden = b"GET /v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n"
    head = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n"
    answer = entrance.raw(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden))
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["bytes"] == len(hidden)
    assert "content-length" not in dict(seen["headers"])
    assert entrance.total() == before + 1


def test_only_what_failed_is_logged(entrance: Balancer) -> None:
    name, marker = secrets.token_hex(8), secrets.token_hex(8)
    entrance.ask("GET", f"/v1/{name}-good")
    entrance.ask("POST", f"/v1/{name}-bad?{marker}", b"{}", wish={"close": True}, x_request_id="r-7", x_secret=marker)

    def lines() -> list[dict[str, Any]]:
        return [line for line in entrance.lines() if name in line["path"]]

    (line,) = wait_until(lines, "a line of the log")
    assert (line["level"], line["method"], line["path"], line["status"]) == ("warning", "POST", f"/v1/{name}-bad", 502)
    assert (line["request_id"], line["retries"]) == ("r-7", 0)
    assert line["instance"].startswith("instance")
    assert line["ts"].endswith("+00:00")
    assert marker not in entrance.container.logs().decode()


def test_a_stream_ends_before_the_balancer_does(
    client: docker.DockerClient, images: dict[str, str], network: str
) -> None:
    with cluster(client, images, network, 1) as found, ThreadPoolExecutor() as pool:
        with found.open("POST", CHAT, chat(), wish={"chunks": 6, "gap": 0.5}) as response:
            assert response.read1(100) == b"data: 0\n\n"
            stopping = pool.submit(found.container.stop, timeout=20)
            assert response.read().endswith(b"data: 5\n\n")
            stopping.result()
        found.container.reload()
        assert found.container.attrs["State"]["ExitCode"] == 0


def test_an_idle_balancer_stops(client: docker.DockerClient, images: dict[str, str], network: str) -> None:
    with cluster(client, images, network, 1) as found:
        with found.connect(b"GET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n") as idle:  # kept alive, it holds nothing up
            assert idle.recv(12) == b"HTTP/1.1 200"
            # The engine kills after that many seconds, which would end it with 137. HAProxy closes such connections at once,
            # but now and then, on a busy machine, when their time as idle ones is over (timeout http-keep-alive).
            found.container.stop(timeout=75)
        found.container.reload()
        assert found.container.attrs["State"]["ExitCode"] == 0


def test_an_api_on_the_host_is_found_by_its_socket(
    client: docker.DockerClient, images: dict[str, str], network: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    folder = str(tmp_path)
    entry = {folder: {"bind": "/run/llm-call", "mode": "ro"}}
    host = {folder: {"bind": "/host", "mode": "rw"}}
    with balancer(client, images["balancer"], network, f"none-{secrets.token_hex(4)}", volumes=entry) as found:
        assert found.count() == 0
        with instance(client, images["api"], network, [], "--socket", "/host/api.sock", volumes=host):
            found.await_count(1)
            assert found.ask("POST", CHAT, chat())[0] == 200
        found.await_count(0)
        (tmp_path / "api.sock").unlink()
        with instance(client, images["api"], network, [], "--socket", "/host/api.sock", volumes=host):
            found.await_count(1)  # the folder is mounted, not the socket: a new one counts


KEY = "Bearer good"
WRONG = "Bearer wrong"


@pytest.fixture(scope="module")
def guarded(client: docker.DockerClient, images: dict[str, str], network: str) -> Iterator[Balancer]:
    """With one instance, which asks for a key. Nobody has shown one yet."""
    alias = f"guarded-{secrets.token_hex(4)}"
    with (
        balancer(client, images["balancer"], network, alias) as found,
        instance(client, images["api"], network, [alias], "--key", KEY) as behind,
    ):
        found.instances.append(behind)
        found.await_count(1)
        yield found


POST = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
UNFINISHED = POST + b"content-length: 100000\r\n\r\n{"


def end_of(connection: socket.socket, seconds: float, more: bytes = b"") -> bytes:
    """What comes until the balancer closes, while the client goes on sending; an error if that takes longer."""
    found, end = b"", time.monotonic() + seconds
    connection.settimeout(0.5)
    while time.monotonic() < end:
        try:
            if not (data := connection.recv(65536)):
                return found
            found += data
        except TimeoutError:
            with contextlib.suppress(ConnectionError):
                connection.sendall(more)
        except ConnectionError:
            return found
    msg = f"still open after {seconds} s, got {found!r}"
    raise AssertionError(msg)


def noise(entrance: Balancer) -> None:
    """As many strangers as make the balancer careful for the next ten seconds."""
    for _ in range(210):
        assert entrance.ask("GET", "/v1/models", authorization=WRONG)[0] == 401


def test_a_strangers_connection_ends_with_its_answer(guarded: Balancer) -> None:
    with guarded.connect(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n") as client:
        answer = end_of(client, 5)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    with guarded.connect(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\n\r\n".encode()) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.settimeout(2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_an_answer_before_the_end_of_a_body_reaches_the_client_and_the_connection_ends_soon(guarded: Balancer) -> None:
    with guarded.connect(UNFINISHED) as client:
        assert end_of(client, 20).startswith(b"HTTP/1.1 401 ")  # after 5 s; it was 120


def test_while_many_strangers_come_nothing_unfinished_of_theirs_goes_on(guarded: Balancer) -> None:
    assert guarded.ask("POST", CHAT, chat(), authorization=KEY)[0] == 200
    noise(guarded)
    before = guarded.total()
    crowd = [guarded.connect(UNFINISHED) for _ in range(100)]
    chunked = guarded.connect(POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n")
    long = guarded.connect(POST + f"authorization: {KEY}\r\ncontent-length: 100000\r\n\r\n{{".encode())
    assert guarded.busy().seen("requests") == before + 1, "the one with a key, unfinished too"
    for each in (*crowd, chunked):
        assert end_of(each, 20, more=b"x") == b""
        each.close()
    assert guarded.total() == before + 1
    long.sendall(b"x" * 99_999)
    assert json.loads(http_body_until(long, b'"bytes": 100000'))["bytes"] == 100_000
    long.close()


def test_a_new_key_is_let_in_while_many_strangers_come(guarded: Balancer) -> None:
    noise(guarded)
    with guarded.connect(POST + b"authorization: Bearer other\r\ncontent-length: 2\r\n\r\n") as client:
        client.sendall(b"{}")
        assert end_of(client, 10).startswith(b"HTTP/1.1 401 ")
    with guarded.connect(POST + b"authorization: Bearer good2\r\ncontent-length: 2\r\n\r\n") as client:
        client.sendall(b"{}")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("wish", [{"wait": 7}, {"chunks": 3, "gap": 6}], ids=["before the answer", "in a stream"])
def test_the_first_answer_to_a_key_may_be_silent_for_long(guarded: Balancer, wish: dict[str, Any]) -> None:
    """Longer than a stranger may be: it is the API that is silent."""
    key = f"Bearer good{secrets.token_hex(4)}"
    with guarded.open("POST", CHAT, chat(), wish=wish, authorization=key) as response:
        assert response.status == 200
        assert response.read()


def test_a_key_that_is_refused_is_forgotten(guarded: Balancer) -> None:
    assert guarded.ask("GET", "/v1/models", authorization="Bearer good3")[0] == 200
    guarded.instances[0].ask("PUT", "/revoked/good3")
    assert guarded.ask("GET", "/v1/models", authorization="Bearer good3")[0] == 401
    noise(guarded)
    with guarded.connect(POST + b"authorization: Bearer good3\r\ncontent-length: 100000\r\n\r\n{") as client:
        assert end_of(client, 20) == b""


def test_what_needs_no_key_makes_nobody_known(guarded: Balancer) -> None:
    """A preflight and /health are answered 200 whatever the header says."""
    shown = {"authorization": "Bearer nobody"}
    assert guarded.ask("OPTIONS", "/v1/models", **shown)[0] == 200
    assert guarded.ask("GET", "/health/live", **shown)[0] == 200
    with guarded.connect(b"GET /health/live HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nobody\r\n\r\n") as client:
        assert b"\r\nconnection: close\r\n" in end_of(client, 5).lower()


def test_the_balancers_own_path_takes_no_body(guarded: Balancer) -> None:
    with guarded.connect(b"GET /health/balancer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n") as client:
        assert end_of(client, 5, more=b"x") == b""


CROWDS = {"silent": 3000, "half": 3000, "body": 1500, "small-body": 1000, "chunked": 1000, "tls": 1000}


@pytest.mark.parametrize(("kind", "count"), CROWDS.items(), ids=CROWDS)
def test_a_client_with_a_key_is_served_beside_a_crowd_without_one(guarded: Balancer, kind: str, count: int) -> None:
    """Through the engine's own forwarder of ports; tests/long has larger crowds and compares times."""
    assert guarded.ask("GET", "/v1/models", authorization=KEY)[0] == 200
    with crowd(kind, guarded.port, count):
        for _ in range(100):
            assert guarded.ask("GET", "/v1/models", authorization=KEY)[0] == 200


def http_body_until(connection: socket.socket, end: bytes) -> bytes:
    """The body of an answer up to the end of the JSON object that holds these bytes."""
    connection.settimeout(20)
    found = b""
    while end not in found or not found.endswith(b"}"):
        data = connection.recv(65536)
        assert data, found
        found += data
    return found.partition(b"\r\n\r\n")[2]


DEBUG_PORTS = {"claude-proxy": 3010, "redis": 6379, "api-debugger": 5678, "ollama": 11434}


@contextlib.contextmanager
def debug_ports(client: docker.DockerClient, image: str, network: str, **more: Any) -> Iterator[Any]:
    options = {
        "network": network,
        "ports": {f"{port}/tcp": ("127.0.0.1", None) for port in DEBUG_PORTS.values()},
        "command": ["haproxy", "-db", "-f", "/etc/haproxy/debug-ports.cfg"],
        "dns": ["127.0.0.1"],
    }
    with running(client, image, **options, **more) as container:
        await_health(container)
        yield container


def test_debug_ports_lead_to_targets_that_come_later(
    client: docker.DockerClient, images: dict[str, str], network: str
) -> None:
    with debug_ports(client, images["balancer"], network) as container, ExitStack() as stack:
        for alias, port in DEBUG_PORTS.items():
            stack.enter_context(instance(client, images["api"], network, [alias], port=port))
            wait_until(Instance(container, port).ready, f"{alias} through the forwarded port", 15)


def test_debug_ports_are_open_on_one_network_alone(
    client: docker.DockerClient, images: dict[str, str], network: str
) -> None:
    """A container that has them on both of its networks shows that they could be reached on the second one."""
    alias = f"edge-{secrets.token_hex(4)}"
    inner = client.networks.create(f"inner-{secrets.token_hex(4)}")
    edge = {network: client.api.create_endpoint_config(aliases=[alias])}
    try:
        for environment, expected in (({}, [True, True]), ({"DEBUG_PORTS_ADDRESS": alias}, [True, False])):
            given = {"environment": environment, "networking_config": edge}
            with debug_ports(client, images["balancer"], network, **given) as container:
                inner.connect(container)
                container.restart()  # so that it has both addresses when it starts, as in Compose
                await_health(container)
                found = container.attrs["NetworkSettings"]["Networks"]
                addresses = [found[each]["IPAddress"] for each in (network, str(inner.name))]
                assert [accepts(address, 3010) for address in addresses] == expected
    finally:
        inner.remove()


def accepts(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((address, port)) == 0
