"""CLIs in runners: work gets there and back, what is lost is told, and what a runner says is not trusted."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import SECRET, Proxy, Stream, alive, gone, question, said
from tests.support.claude_proxy_process import running as proxy_running
from tests.support.runners import FIRST, Runner, connected, only_root, pooled, runner
from tests.support.service import wait_until

pytestmark = only_root
Pooled = tuple[Proxy, list[Runner]]


@pytest.fixture
def cli(tmp_path: Path) -> Path:
    return install(tmp_path / "fake-claude", SECRET)


def settings(cli: Path, **more: str) -> dict[str, str]:
    return {"CLAUDE_PROXY_CLI": str(cli), "ANTHROPIC_API_KEY": SECRET, "CLAUDE_PROXY_PRESTART": "0", **more}


@pytest.fixture
def two(tmp_path: Path, cli: Path) -> Iterator[Pooled]:
    with pooled(tmp_path, settings(cli, CLAUDE_PROXY_QUEUE="0"), 2) as found:
        yield found


def owners(cli: Path) -> list[int]:
    """The users of all that came of the double."""
    return sorted(Path(f"/proc/{pid}").stat().st_uid for pid in alive(cli))


def hanging(proxy: Proxy) -> Stream:
    stream = proxy.open_stream("hang")
    next(stream.events())
    return stream


def test_a_request_runs_in_a_runner_and_leaves_nothing(two: Pooled, cli: Path) -> None:
    proxy, runners = two
    long = "s" * 1_500_000
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": long},
        {"role": "assistant", "content": "and?"},
        {"role": "user", "content": "describe"},
    ]
    told = json.loads(proxy.chat("", messages=messages).text)
    assert (told["system"], told["mode"], told["group"]) == ("be brief", "0o700", True)
    assert long in told["files"]["--resume"]
    assert Path(told["cwd"]).parents[1] in [each.work for each in runners]
    assert proxy.chat("orphan").text == "I am not alone"
    gone(cli)
    wait_until(lambda: not any(list(each.work.iterdir()) for each in runners), "a folder is left")
    assert proxy.descendants() == {}
    assert proxy.request("GET", "/health/ready").status == 200


def test_each_has_a_user_of_its_own_and_then_there_is_no_room(two: Pooled, cli: Path) -> None:
    proxy, _ = two
    streams = [hanging(proxy) for _ in range(2)]
    assert owners(cli) == [FIRST, FIRST + 1]
    refused = proxy.chat("hello")
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "claude_proxy_busy", "5")
    for each in streams:
        each.close()
    wait_until(lambda: proxy.chat("hello").status == 200, "no runner came back")
    gone(cli)


def test_more_than_there_are_runners_wait_in_line(tmp_path: Path, cli: Path) -> None:
    with pooled(tmp_path, settings(cli, CLAUDE_PROXY_QUEUE="20", CLAUDE_PROXY_QUEUE_SECONDS="60"), 2) as (proxy, _):
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda number: proxy.chat(f"hello-{number}"), range(12)))
        assert {each.status for each in answers} == {200}


def test_without_a_runner_it_is_not_ready_and_says_why(tmp_path: Path, cli: Path) -> None:
    with pooled(tmp_path, settings(cli, CLAUDE_PROXY_QUEUE_SECONDS="0.2"), 0) as (proxy, _):
        refused = proxy.chat("hello")
        assert (refused.status, refused.code) == (503, "claude_no_runner")
        ready = proxy.request("GET", "/health/ready")
        assert ready.status == 503
        assert b"no runner is connected" in ready.body
        with runner(tmp_path, 0):
            wait_until(lambda: connected(proxy) == 1, "the runner does not connect")
            assert proxy.chat("hello").text == "you said hello"


def test_a_runner_that_dies_is_missed_by_its_own_request_only(two: Pooled, tmp_path: Path, cli: Path) -> None:
    proxy, runners = two
    streams = [hanging(proxy)]
    (owner,) = owners(cli)
    streams.append(proxy.open_stream("slow 1.5"))
    opened = streams[1].events()
    next(opened)
    (lost,) = [each for each in runners if each.uid == owner]
    lost.kill()
    last = list(streams[0].events())[-1]
    assert last["error"]["code"] == "claude_runner_lost", last
    assert said(list(opened)) in ("enough", "soon enough")
    for each in streams:
        each.close()
    gone(cli)
    with runner(tmp_path, lost.uid - FIRST):
        wait_until(lambda: connected(proxy) == 2, "the runner does not come back")
        streams = [hanging(proxy) for _ in range(2)]
        for each in streams:
            each.close()


def test_a_proxy_that_comes_back_finds_its_runners_clean(tmp_path: Path, cli: Path) -> None:
    with pooled(tmp_path, settings(cli), 2) as (proxy, runners):
        stream = hanging(proxy)
        numbers = [each.process.pid for each in runners]
        proxy.process.kill()
        proxy.process.wait()
        gone(cli)
        with suppress(OSError):
            stream.close()
    assert [each.process.poll() for each in runners] == [0, 0], [each.log.read_text() for each in runners]
    assert len(numbers) == 2


def test_one_who_is_told_to_end_finishes_first(two: Pooled, cli: Path) -> None:
    proxy, runners = two
    stream = proxy.open_stream("slow 1")
    events = stream.events()
    next(events)
    for each in runners:
        each.process.send_signal(signal.SIGTERM)
    assert said(list(events)).endswith("enough")
    stream.close()
    assert [each.process.wait(10) for each in runners] == [0, 0]


def test_a_cli_that_waits_makes_room_for_a_request_that_it_does_not_serve(tmp_path: Path, cli: Path) -> None:
    more = settings(cli, CLAUDE_PROXY_PRESTART="1", CLAUDE_PROXY_QUEUE="0")
    with pooled(tmp_path, more, 1) as (proxy, _):
        wait_until(lambda: proxy.metric("claude_proxy_cli_ahead ") == 1, "no CLI waits")
        assert proxy.chat("hello").text == "you said hello"
        assert proxy.metric('claude_proxy_cli_starts_total{start="ahead"}') == 1
        wait_until(lambda: proxy.metric("claude_proxy_cli_ahead ") == 1, "no CLI waits")
        assert proxy.chat("hello", max_tokens=5).text == "you said hello"
        assert proxy.metric('claude_proxy_cli_starts_total{start="cold"}') == 1
        wait_until(lambda: proxy.metric("claude_proxy_cli_ahead ") == 1, "no CLI waits")


STRANGE = (
    b"ready",
    b"ready {}",
    b"ready " + b"[" * 900,
    b'ready {"work": "relative", "memory": 1e9, "disk": 1}',
    b'ready {"work": "/w", "memory": -1, "disk": 99999999999999999999}',
    b"x" * 100_000,
    b"leaving",
    b"\xff\x00",
)


def test_what_a_runner_says_is_not_trusted(two: Pooled, tmp_path: Path, cli: Path) -> None:
    proxy, _ = two
    (path,) = (tmp_path / "runners").resolve().glob("*.sock")
    stream = proxy.open_stream("slow 2")
    events = stream.events()
    next(events)
    for number, message in enumerate(STRANGE):
        with _as_user(path, FIRST + 5) as stranger:
            stranger.send(message)
            assert stranger.recv(10) == b"", number
    for uid in (0, FIRST - 1, FIRST):  # the proxy's own, none of its range, and one that is there already
        with _as_user(path, uid) as stranger:
            assert _closed(stranger)
    assert connected(proxy) == 2
    assert said(list(events)).endswith("enough")
    stream.close()


def test_a_second_word_that_it_is_ready_is_one_too_many(two: Pooled, tmp_path: Path) -> None:
    proxy, _ = two
    (path,) = (tmp_path / "runners").resolve().glob("*.sock")
    with _as_user(path, FIRST + 5) as stranger:
        stranger.send(b'ready {"work": "/w", "memory": 100000000, "disk": 100000000}')
        wait_until(lambda: connected(proxy) == 3, "it is not taken for a runner")
        stranger.send(b'ready {"work": "/w", "memory": 100000000, "disk": 100000000}')
        assert _closed(stranger)
    wait_until(lambda: connected(proxy) == 2, "it is still taken for a runner")


def _as_user(path: Path, uid: int) -> socket.socket:
    """A connection that another user has made."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(10)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(path.parent)
            os.setresuid(uid, uid, uid)
            connection.connect(path.name)
            theirs.send(b"1")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    theirs.close()
    assert ours.recv(1) == b"1"
    ours.close()
    return connection


def _closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def _resident(proxy: Proxy) -> int:
    """Bytes of memory of the proxy."""
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


KINDS = ("line", "lines", "bytes", "text", "wide", "begins", "turns", "values", "deep", "words", "stderr")
ATTACK_SECONDS = 1.5
MOST = 64 << 20
"""Bytes by which the proxy's memory may grow for one request, whatever its CLI writes."""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("bounded")
    cli = install(folder / "fake-claude", SECRET)
    with pooled(folder, settings(cli), 2) as (proxy, _):
        proxy.chat("hello")
        yield proxy


CASES = [*((kind, False) for kind in KINDS), *((kind, True) for kind in ("line", "wide", "turns", "values", "words"))]


@pytest.mark.parametrize(("kind", "session"), CASES, ids=[f"{kind}{' in a session' * kept}" for kind, kept in CASES])
def test_memory_is_bounded_whatever_a_cli_writes(bounded: Proxy, kind: str, session: bool) -> None:
    before = highest = _resident(bounded)
    question_of = question(f"endless {kind}", **({"session_id": f"s-{kind}"} if session else {}))
    connection = http.client.HTTPConnection("127.0.0.1", bounded.port)
    connection.request("POST", "/v1/chat/completions", question_of)
    end = time.monotonic() + ATTACK_SECONDS
    while time.monotonic() < end:
        highest = max(highest, _resident(bounded))
        time.sleep(0.005)
    connection.close()
    wait_until(lambda: bounded.metric("claude_proxy_cli_running ") == 0, "it does not end", 30)
    assert highest - before < MOST * (2 if session else 1), f"{(highest - before) >> 20} MiB"
    assert bounded.chat("hello").text == "you said hello"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, cli: Path) -> None:
    told = r"ended with 78: [^$]*CLAUDE_PROXY_RUNNERS: cannot listen below /nowhere"
    with (
        pytest.raises(AssertionError, match=told),
        proxy_running(tmp_path, settings(cli, CLAUDE_PROXY_RUNNERS="/nowhere")),
    ):
        raise NotImplementedError
