"""Patience, and where plain HTTP is spoken; everything else is seen with real registries."""

import time
from email.utils import formatdate

import pytest

from shipyard import registry_http
from shipyard.errors import RegistryFailed
from shipyard.registry_access import Client
from shipyard.registry_http import Passing, Wire, Wrong


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:5000", "localhost", "localhost:1", "[::1]:5000", "[::1]"])
def test_this_machine(host: str) -> None:
    assert registry_http.loopback(host)
    assert Client(host, None).wire.base == f"http://{host}"


@pytest.mark.parametrize("host", ["127.0.0.1.example.org", "localhost.example:5000", "ghcr.io", "127.0.0.2:5000", ""])
def test_any_other_machine(host: str) -> None:
    assert not registry_http.loopback(host)
    assert Client(host, None).wire.base == f"https://{host}"


def test_docker_hub_has_another_name() -> None:
    assert Client("docker.io", None).wire.base == "https://registry-1.docker.io"


@pytest.mark.parametrize(("text", "expected"), [("", 0), ("7", 7), ("soon", 0), ("-3", 0), (formatdate(1000), 30)])
def test_retry_after(text: str, expected: float) -> None:
    assert registry_http.seconds(text, 970.0) == expected
    assert registry_http.seconds(formatdate(1000), 2000.0) == 0


def wire(patience: float = 60) -> Wire:
    return Wire("here", "http://here", lambda text: text.replace("secret", "[REDACTED]"), patience)


def test_what_passes_is_tried_again_with_growing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    client, waits, problems = wire(), list[float](), [Passing("busy", 3.0), *[Passing("busy")] * 4]
    monkeypatch.setattr(client._stopped, "wait", waits.append)

    def attempt() -> str:
        if problems:
            raise problems.pop(0)
        return "done"

    assert client.patiently(attempt, "asked") == "done"
    assert waits[0] == 3.0
    assert all(0.2 * 2**number / 2 <= wait <= 0.2 * 2**number for number, wait in enumerate(waits) if number)


def test_it_gives_up_when_the_next_wait_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    client, waits, now = wire(), list[float](), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(client._stopped, "wait", lambda wait: (waits.append(wait), now.__setitem__(0, now[0] + wait)))

    def attempt() -> None:
        problem = "busy, secret"
        raise Passing(problem)

    with pytest.raises(RegistryFailed, match=r"here: asked: busy, \[REDACTED\]; is the registry up"):
        client.patiently(attempt, "asked")
    assert 44 < sum(waits) <= 60  # the last wait would have been 8 s at most


def test_other_bytes_are_asked_for_three_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    client, asked = wire(), []
    monkeypatch.setattr(client._stopped, "wait", lambda _: None)

    def attempt() -> None:
        asked.append(1)
        problem = "forged"
        raise Wrong(problem)

    with pytest.raises(RegistryFailed, match="forged"):
        client.patiently(attempt, "asked")
    assert len(asked) == 3


def test_who_was_stopped_does_not_wait() -> None:
    client = wire()
    client.stop()
    with pytest.raises(RegistryFailed):
        client.patiently(lambda: (_ for _ in ()).throw(Passing("busy", 30.0)), "asked")
