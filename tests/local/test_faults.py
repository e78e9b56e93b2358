"""What goes wrong with local models costs a request at most, and says what it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.local.conftest import Start
from tests.support.local_models import lives, model, script
from tests.support.service import double, wait_until

SILENT = "if '--list-devices' in sys.argv: sys.exit(0)\ntime.sleep(600)"


def test_killed_between_two_requests_it_is_back_for_the_next(start: Start) -> None:
    with start(model("tiny")) as api:
        assert api.ask()[0] == 200
        pid = api.kill()
        assert api.ask()[0] == 200
        assert api.only() != pid
        assert api.metric('llm_call_local_model_crashes_total{model="local/tiny"}') == 1
        (line,) = api.logged("crashed")
        assert "SIGKILL" in line["message"]
        assert line["last_lines"]


def test_it_comes_back_by_itself_while_it_is_in_use(start: Start) -> None:
    with start(model("tiny")) as api:
        assert api.ask()[0] == 200
        pid = api.kill()
        wait_until(lambda: api.processes() not in ([], [pid]) and api.state() == 2, "it is started again")


def test_killed_in_the_middle_of_a_stream(start: Start) -> None:
    """The stream ends with an error event, as that of any upstream that breaks off; the gateway lives."""
    with start(model("tiny", context=8192, parallel=6)) as api:
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(api.stream(text=f"hi {number}")) for number in range(6)]
            assert all(stream.readline() for stream in streams)
            api.kill()
            ends = [stream.read() for stream in streams]
        for end in ends:
            last = [json.loads(line[6:]) for line in end.splitlines() if line.startswith(b"data: ")][-1]
            assert last["error"]["code"] == "local_model_ended"
            assert "SIGKILL" in last["error"]["message"]
            assert b"[DONE]" not in end
        # Six broken streams are one crash: the breaker, which opens after five failures, leaves that to the supervisor.
        assert api.ask()[0] == 200


def test_a_request_that_kills_it_gets_a_clear_502(start: Start, tmp_path: Path) -> None:
    """A double: llama-server that ends as soon as it is asked."""
    body = """
import threading, http.server, socket, socketserver
if '--list-devices' in sys.argv: sys.exit(0)
class H(http.server.BaseHTTPRequestHandler):
    def address_string(self): return ""
    def do_GET(self): self.send_response(200); self.end_headers()
    def do_POST(self): print("/x/ggml.cpp:1: GGML_ASSERT(false) failed", flush=True); os.abort()
class S(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): pass
S(sys.argv[sys.argv.index("--host") + 1], H).serve_forever()
"""
    dies = script(tmp_path / "dies", body)
    with start(model("tiny", retries=1), program=dies) as api:
        status, answer, headers = api.ask()
        assert status == 502
        assert answer["error"]["code"] == "local_model_ended"
        assert "SIGABRT" in answer["error"]["message"]
        assert headers["retry-after"] == "2"
        lines = api.logged("crashed")
        assert [line["pause"] for line in lines] == [1.0, 2.0]
        assert "GGML_ASSERT" in "".join(lines[0]["last_lines"])
        assert api.service.get("/health/live")[0] == 200
        code, document = api.service.get("/health/ready")
        assert (code, document["status"]) == (200, "degraded")
        assert "SIGABRT" in document["dependencies"]["local/tiny"]["reason"]
        # While it waits, who asks is told when to ask again, or the next one is asked.
        status, answer, headers = api.ask()
        assert (status, answer["error"]["code"]) in ((502, "local_model_ended"), (503, "local_model_failed"))
        assert int(headers["retry-after"]) >= 1


def test_a_fallback_answers_for_a_model_that_cannot(start: Start) -> None:
    with double() as upstream:
        other = f'[upstream.d]\nkind = "openai"\nbase_url = "http://127.0.0.1:{upstream.port}/v1"\n'
        other += '[model."d/one"]\nupstream = "d"\n'
        with start(other + model("none", file="none.gguf", fallbacks=["d/one"])) as api:
            status, _, headers = api.ask("none")
            assert (status, headers["x-llm-call-upstream"]) == (200, "d")


def test_broken_missing_and_foreign_files(start: Start, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"GGUF")
    models = {
        "noise": ("noise.gguf", "is no GGUF file", "local_model_broken"),
        "short": ("short.gguf", "cut off", "local_model_broken"),
        "half": ("half.gguf", "is cut off", "local_model_broken"),
        "other": ("other.gguf", "did not start", "local_model_failed"),
        "none": ("none.gguf", "put it there", "local_model_missing"),
        "link": ("link.gguf", "is a link out of", "local_model_outside"),
        "dead": ("dead.gguf", "is a link that leads to nothing here", "local_model_missing"),
        "folder": ("sub", "is no file", "local_model_missing"),
    }
    with start(model("tiny") + "".join(model(name, file=file) for name, (file, _, _) in models.items())) as api:
        whole = (api.folder / "tiny.gguf").read_bytes()
        (api.folder / "noise.gguf").write_bytes(b"noise" * 100)
        (api.folder / "short.gguf").write_bytes(whole[:100])
        (api.folder / "half.gguf").write_bytes(whole[: len(whole) // 2])
        (api.folder / "other.gguf").write_bytes(whole.replace(b"output_norm", b"output_mron"))
        (api.folder / "link.gguf").symlink_to(outside)
        (api.folder / "dead.gguf").symlink_to("/where/the/host/has/tiny.gguf")
        (api.folder / "sub").mkdir()
        for name, (_, text, code) in models.items():
            status, body, _ = api.ask(name)
            assert (status, body["error"]["code"]) == (503, code), body
            assert text in body["error"]["message"]
        (failed,) = api.logged("local/other did not start")
        assert "tensor" in "".join(failed["last_lines"])
        assert "other" in str(api.ask("other")[1])  # and again, at once
        assert api.processes() == []
        assert api.ask()[0] == 200
        # A file that comes later is found.
        (api.folder / "none.gguf").write_bytes(whole)
        assert api.ask("none")[0] == 200


def test_a_start_that_hangs_is_given_up(start: Start, tmp_path: Path) -> None:
    with start(model("tiny", start_seconds=0.5), program=script(tmp_path / "silent", SILENT)) as api:
        status, body, headers = api.ask()
        assert status == 503
        assert "not ready within 0.5 s" in body["error"]["message"]
        assert int(headers["retry-after"]) >= 1
        assert api.processes() == []


def test_a_process_that_hangs_is_replaced(start: Start) -> None:
    with start(model("tiny"), LLM_CALL_LOCAL_WATCH_SECONDS="0.2") as api:
        assert api.ask()[0] == 200
        pid = api.kill(number=signal.SIGSTOP)
        wait_until(lambda: not lives(pid), "the hanging process is ended", 20)
        wait_until(lambda: api.logged("crashed"), "the line about its end")
        assert "health checks" in api.logged("crashed")[0]["message"]
        assert api.ask()[0] == 200


def test_more_memory_than_the_ceiling(start: Start) -> None:
    large = model("large", context=65_536, memory="20MB")  # known before it is started
    greedy = model("greedy", memory="18MB")  # known only when it runs
    with start(large + greedy) as api:
        status, body, _ = api.ask("large")
        assert (status, body["error"]["code"]) == (503, "local_model_too_large")
        assert "raise its memory" in body["error"]["message"]
        status, body, _ = api.ask("greedy")
        assert (status, body["error"]["code"]) == (503, "local_model_failed")
        assert "its ceiling is 18 MB" in body["error"]["message"]
        assert len(api.logged("its ceiling is 18 MB")) == 1
        assert api.service.get("/health/live")[0] == 200


def test_what_cannot_start_takes_no_room_from_what_runs(start: Start) -> None:
    files = ("none.gguf", "noise.gguf", "half.gguf")
    wrong = [model(file.partition(".")[0], file=file) for file in files]
    wrong += [model("small", memory="8MB"), model("large", context=65_536, memory="20MB")]
    wrong += [model("unpooled", embeddings=True)]
    with start(model("tiny") + "".join(wrong), LLM_CALL_LOCAL_MODELS_LOADED="1") as api:
        whole = (api.folder / "tiny.gguf").read_bytes()
        (api.folder / "noise.gguf").write_bytes(b"noise" * 100)
        (api.folder / "half.gguf").write_bytes(whole[: len(whole) // 2])
        assert api.ask()[0] == 200
        pid = api.only()
        for name in ("none", "noise", "half", "small", "large"):
            assert api.ask(name)[0] == 503
        assert api.service.post("/v1/embeddings", {"model": "local/unpooled", "input": "x"})[0] == 503
        assert api.processes() == [pid]
        assert api.logged("makes room") == []


def test_a_model_that_outgrew_its_ceiling_once_gets_no_room_again(start: Start) -> None:
    with start(model("tiny") + model("greedy", memory="18MB"), LLM_CALL_LOCAL_MODELS_LOADED="1") as api:
        assert api.ask()[0] == 200
        assert api.ask("greedy")[1]["error"]["code"] == "local_model_failed"
        assert api.ask()[0] == 200
        pid = api.only()
        wait_until(lambda: api.ask("greedy")[1]["error"]["code"] == "local_model_too_large", "its pause is over")
        assert api.processes() == [pid]
        assert api.metric('llm_call_local_model_failed_starts_total{model="local/greedy"}') == 1
        # Another file may need less.
        os.utime(api.folder / "tiny.gguf", (1, 1))
        wait_until(lambda: api.ask("greedy")[1]["error"]["code"] == "local_model_failed", "it is started again")


def test_an_image_without_llama_server_lists_them_and_says_which_has_it(start: Start, tmp_path: Path) -> None:
    with start(model("tiny"), program=tmp_path / "nowhere") as api:
        assert [each["id"] for each in api.service.get("/v1/models")[1]["data"]] == ["local/tiny"]
        for _ in range(8):  # also when it is asked again and again
            status, body, _ = api.ask()
            assert (status, body["error"]["code"]) == (503, "local_models_missing")
            assert "the targets local and cuda have it" in body["error"]["message"]
        code, document = api.service.get("/health/ready")
        assert (code, document["dependencies"]["local/tiny"]["state"]) == (200, "not configured")


def test_every_fault_of_the_file_is_told_at_once(start: Start) -> None:
    wrong = model("tiny", file="../x.gguf", context=1, memory="lots", threads=0) + model("x", pooling="men")
    with pytest.raises(AssertionError) as caught, start(wrong):
        pass
    for text in ("leaves the models folder", "context", "is a size", "threads", 'perhaps you meant "mean"'):
        assert text in str(caught.value)


def test_what_breaks_in_one_model_touches_no_other(start: Start) -> None:
    with start(model("good") + model("bad", file="bad.gguf")) as api:
        (api.folder / "bad.gguf").write_bytes((api.folder / "tiny.gguf").read_bytes()[:200_000])
        assert [api.ask("bad")[0] for _ in range(7)] == [503] * 7
        assert api.ask("good")[0] == 200
