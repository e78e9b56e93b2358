"""A service that hangs is ended by its probe; one that answers anything, or still starts, is not."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from serving import hung, probe, tally
from tests.support.service import READY, Service, running, wait_until

SHORT = 0.3


@pytest.fixture(autouse=True)
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def live(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}/health/live"


def verdict(service: Service, limit: int = 3) -> str:
    fault = probe.check(live(service), SHORT)
    return (fault or "well") + probe.judge(live(service), fault, limit)


def small(*arguments: str):
    return running(["-m", "tests.support.small_service", *arguments], READY)


def test_a_service_that_hangs_is_ended_after_so_many_probes() -> None:
    with small() as service:
        assert verdict(service) == "well"
        service.process.send_signal(signal.SIGSTOP)
        assert [verdict(service)[-8:] for _ in range(2)] == ["(1 of 3)", "(2 of 3)"]
        assert service.process.poll() is None
        assert f"(3 in a row); ending process {service.process.pid} (" in verdict(service)
        assert service.process.wait(5) == -signal.SIGKILL
        assert "Connection refused (4 in a row); cannot end it" in verdict(service)


def test_one_answer_in_time_saves_it() -> None:
    with small() as service:
        assert verdict(service, 2) == "well"
        for _ in range(2):
            service.process.send_signal(signal.SIGSTOP)
            assert verdict(service, 2).endswith("(1 of 2)")
            service.process.send_signal(signal.SIGCONT)
            wait_until(lambda: verdict(service, 2) == "well", "an answer")
        assert service.stop() == 0


def test_who_refuses_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "life", lambda: (1, 1000.0))
    with small() as service:
        url = live(service).replace("live", "nowhere")
        for _ in range(3):
            fault = probe.check(url, SHORT)
            assert fault == f"{url}: answered HTTP/1.1 404 Not Found"
            assert probe.judge(url, fault, 1) == ""
        assert service.stop() == 0


def test_who_hangs_up_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """As our services do beyond their limit of connections: that many clients must not be able to end them."""
    monkeypatch.setattr(tally, "life", lambda: (1, 1000.0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/health/live"

        def hang_up() -> None:
            server.accept()[0].close()

        other = threading.Thread(target=hang_up)
        other.start()
        fault = probe.check(url, 5)
        other.join()
        assert fault
        assert probe.judge(url, fault, 1) == ""


def test_a_slow_start_is_let_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens without answering is ended only when it has answered before, or is older than any start."""
    age = [1.0]
    monkeypatch.setattr(tally, "life", lambda: (1, age[0]))
    with small() as service:
        service.process.send_signal(signal.SIGSTOP)
        assert [verdict(service, 1).endswith("no answer within 0.3 s") for _ in range(2)] == [True, True]
        assert service.process.poll() is None
        age[0] = 100.0
        assert "ending process" in verdict(service, 1)


def test_a_supervisor_goes_with_its_workers() -> None:
    with small("--reload") as service:
        processes = hung.servers(service.port)
        assert len(processes) == 2
        assert service.process.pid in {each.pid for each in processes}
        assert verdict(service, 1) == "well"
        for each in processes:
            os.kill(each.pid, signal.SIGSTOP)
        assert "ending process" in verdict(service, 1)
        assert service.process.wait(5) == -signal.SIGKILL
        wait_until(lambda: not hung.servers(service.port), "the end of the worker")


def test_nobody_else_is_taken_for_the_server() -> None:
    with small() as service, socket.create_server(("127.0.0.2", 0)) as other:
        assert [each.pid for each in hung.servers(service.port)] == [service.process.pid]
        assert hung.servers(other.getsockname()[1]) == [], "not reached through 127.0.0.1"
