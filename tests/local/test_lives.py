"""From the first request to the end: loaded when needed, unloaded when idle, none left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.local.conftest import Start
from tests.support.local_models import lives, model
from tests.support.service import wait_until


def test_nothing_is_loaded_before_it_is_asked(start: Start) -> None:
    with start(model("tiny")) as api:
        assert api.service.get("/health/ready")[0] == 200
        assert (api.processes(), api.state()) == ([], 0)
        assert api.ask()[0] == 200
        assert (len(api.processes()), api.state()) == (1, 2)
        assert api.metric('llm_call_local_model_memory_bytes{model="local/tiny"}') > 5e6


def test_an_idle_model_is_unloaded_and_loaded_again(start: Start) -> None:
    with start(model("tiny", idle_seconds=0.3)) as api:
        assert api.ask()[0] == 200
        wait_until(lambda: not api.processes(), "the idle model is unloaded")
        wait_until(lambda: api.state() == 0, "the gateway knows that its process has ended")
        assert api.ask()[0] == 200
        assert api.metric('llm_call_local_model_crashes_total{model="local/tiny"}') == 0


def test_a_model_is_never_unloaded_while_a_request_runs(start: Start) -> None:
    with start(model("tiny", idle_seconds=0.2, context=65_536)) as api, api.stream() as response:
        pid = api.only()
        end = time.monotonic() + 5 * 0.2  # the stream goes on for several times the idle time
        while time.monotonic() < end:
            assert response.readline()
        assert api.processes() == [pid]
        assert not api.logged("unloaded")


def test_two_models_have_a_process_each_and_a_third_makes_the_oldest_go(start: Start) -> None:
    models = "".join(model(name) for name in ("one", "two", "three"))
    with start(models, LLM_CALL_LOCAL_MODELS_LOADED="2") as api:
        assert [api.ask(name)[0] for name in ("one", "two", "one")] == [200] * 3
        one, two = api.only("one"), api.only("two")
        assert api.ask("three")[0] == 200
        assert (api.processes("one"), api.processes("two")) == ([one], [])
        assert not lives(two)
        assert api.ask("two")[0] == 200
        assert api.processes("one") == []


def test_a_busy_model_makes_no_room_and_the_request_waits_for_it(start: Start) -> None:
    models = model("one", context=65_536) + model("two")
    with start(models, LLM_CALL_LOCAL_MODELS_LOADED="1") as api:
        answers = []
        with api.stream("one") as response:
            assert response.readline()
            one = api.only("one")
            asking = threading.Thread(target=lambda: answers.append(api.ask("two")[0]))
            asking.start()
            wait_until(lambda: api.state("two") == 1, "the second model waits for a seat")
            assert api.processes() == [one]
        asking.join(20)
        assert answers == [200]
        assert not api.processes("one")


def test_a_reload_ends_what_is_gone_renews_what_changed_and_leaves_the_rest(start: Start) -> None:
    with start(model("same") + model("other") + model("gone"), LLM_CALL_LOCAL_MODELS_LOADED="3") as api:
        assert [api.ask(name)[0] for name in ("same", "other", "gone")] == [200] * 3
        same, other, gone = (api.only(name) for name in ("same", "other", "gone"))
        api.reload(model("same") + model("other", context=2048) + model("new"))
        wait_until(lambda: not lives(other) and not lives(gone), "the changed and the removed model end")
        assert api.ask("gone")[0] == 404
        assert [api.ask(name)[0] for name in ("same", "other", "new")] == [200] * 3
        assert api.only("same") == same
        assert api.only("other") != other


def test_a_removed_model_ends_after_its_last_request(start: Start) -> None:
    with start(model("tiny", context=65_536)) as api:
        with api.stream() as response:
            assert response.readline()
            pid = api.only()
            api.reload(model("other"))
            assert response.readline()
            assert response.readline()
            assert lives(pid)
        wait_until(lambda: not lives(pid), "the removed model ends")


def test_the_first_local_model_may_come_with_a_reload(start: Start) -> None:
    remote = '[upstream.a]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n[model.a]\nupstream = "a"\n'
    with start(remote) as api:
        assert "local" not in str(api.service.get("/health/ready")[1])
        api.reload(remote + model("tiny"))
        assert api.ask()[0] == 200


@pytest.mark.parametrize(
    ("number", "more"), [(signal.SIGTERM, ()), (signal.SIGKILL, ()), (signal.SIGTERM, ("--reload",))]
)
def test_no_model_outlives_the_gateway(start: Start, tmp_path: Path, number: int, more: tuple[str, ...]) -> None:
    with start(model("one") + model("two"), *more) as api:
        assert [api.ask(name)[0] for name in ("one", "two")] == [200, 200]
        pids = api.processes()
        assert len(pids) == 2
        api.service.stop(number)
        wait_until(lambda: not any(map(lives, pids)), "the models end with the gateway")
        if number == signal.SIGTERM:
            assert not list(tmp_path.glob("llm-call-local-*"))


def test_a_worker_of_hot_reload_that_is_killed_takes_its_models_with_it(start: Start) -> None:
    with start(model("tiny"), "--reload") as api:
        assert api.ask()[0] == 200
        pid = api.only()
        supervisor = api.service.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        worker = int(status.partition("PPid:")[2].split()[0])
        assert worker != supervisor
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not lives(pid), "the model ends with its worker")
        wait_until(lambda: len(api.logged("serving")) > 1, "another worker serves")
        assert api.ask()[0] == 200


def test_a_drain_lets_a_stream_finish_before_its_model_ends(start: Start) -> None:
    with start(model("tiny", context=65_536)) as api:
        with api.stream() as response:
            assert response.readline()
            pid = api.only()
            api.service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: api.logged("draining"), "the drain")
            for _ in range(50):
                assert response.readline()
            assert lives(pid)
        assert api.service.process.wait(10) == 0
        assert not lives(pid)
