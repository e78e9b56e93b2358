"""What clients see of local models: the same wire as of any other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import socket as sockets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_call.api.local import templates
from tests.support.local_models import Gateway, gateway, model, servers

MODELS = (
    model("tiny", parallel=2) + model("vectors", embeddings=True, pooling="mean") + model("unpooled", embeddings=True)
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("api"), program, MODELS, LOG_LEVEL="debug") as api:
        yield api


def test_first_requests_at_the_same_time_share_one_start(api: Gateway) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: api.ask(text=f"hi {number}"), range(8)))
    assert [status for status, _, _ in answers] == [200] * 8
    assert len(api.processes("tiny")) == 1
    assert api.metric('llm_call_local_model_starts_total{model="local/tiny"}') == 1


def test_an_answer(api: Gateway) -> None:
    status, body, headers = api.ask(max_tokens=8, ignore_eos=True)
    assert status == 200, body
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] == 8
    assert headers["x-llm-call-upstream"] == "local/tiny"


def test_the_templates_that_may_be_named_are_those_of_llama_server(program: Path) -> None:
    told = subprocess.run([program, "--help"], check=True, capture_output=True, text=True, timeout=30).stdout
    listed = told.partition("list of built-in templates:")[2].partition("(env:")[0]
    assert tuple(sorted(name.strip() for name in listed.split(","))) == templates.NAMES


def test_what_is_asked_reaches_the_model_by_every_kind_of_template(tmp_path: Path, program: Path) -> None:
    names = ("chatml", "llama3", "gemma", "mistral-v7-tekken")
    models = "".join(model(name, template=name) for name in names)
    with gateway(tmp_path, program, models) as api:
        for name in names:
            short, long = (api.ask(name, text="a" * length)[1]["usage"]["prompt_tokens"] for length in (1, 50))
            assert long - short == 49, name
            tools = [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
            ]
            assert api.ask(name, tools=tools)[0] == (200 if name == "chatml" else 400)


def test_a_stream(api: Gateway) -> None:
    with api.stream() as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line for line in (response.readline() for _ in range(20)) if line.startswith(b"data: ")]
    pieces = [choice["delta"].get("content") for event in events for choice in json.loads(event[6:])["choices"]]
    assert "".join(piece for piece in pieces if piece)


def test_embeddings(api: Gateway) -> None:
    status, body, _ = api.service.post("/v1/embeddings", {"model": "local/vectors", "input": ["one", "two"]})
    assert status == 200, body
    vectors = [entry["embedding"] for entry in body["data"]]
    assert [len(vector) for vector in vectors] == [64, 64]
    assert vectors[0] != vectors[1]


def test_a_chat_model_says_that_it_embeds_nothing(api: Gateway) -> None:
    status, body, _ = api.service.post("/v1/embeddings", {"model": "local/tiny", "input": "one"})
    assert status == 501
    assert "does not support embeddings" in body["error"]["message"]


def test_a_model_that_embeds_is_asked_for_nothing_else_and_says_what_it_lacks(api: Gateway) -> None:
    for name in ("vectors", "unpooled"):
        status, body, _ = api.ask(name)
        assert (status, body["error"]["param"]) == (400, "model")
        assert "/v1/embeddings only" in body["error"]["message"]
    status, body, _ = api.service.post("/v1/embeddings", {"model": "local/unpooled", "input": "one"})
    assert (status, body["error"]["code"]) == (503, "local_model_unpooled")
    assert 'set pooling = "mean"' in body["error"]["message"]
    assert api.processes("unpooled") == []


def test_they_are_listed_like_others(api: Gateway) -> None:
    listed = api.service.get("/v1/models")[1]["data"]
    assert [(each["id"], each["owned_by"]) for each in listed] == [
        (f"local/{name}", "local") for name in ("tiny", "vectors", "unpooled")
    ]


def test_it_runs_on_the_cpu_and_says_so_in_one_line(api: Gateway) -> None:
    assert len(api.logged("local models run on the CPU")) == 1


def test_nobody_else_may_use_the_socket(api: Gateway) -> None:
    assert api.ask()[0] == 200
    pid = api.only()
    ((_, argv),) = [each for each in servers(api.service.process.pid) if each[0] == pid]
    socket = argv[argv.index("--host") + 1]
    assert Path(socket).parent.stat().st_mode & 0o777 == 0o700
    connection = http.client.HTTPConnection("localhost")
    with contextlib.closing(connection):
        connection.sock = sockets.socket(sockets.AF_UNIX)
        connection.sock.connect(socket)
        connection.request("POST", "/v1/chat/completions", b"{}")
        assert connection.getresponse().status == 401
    (key,) = [argv[index + 1] for index, word in enumerate(argv) if word.startswith("--api-key")]
    assert key == "/dev/stdin"


def test_its_environment_holds_no_secret_and_no_option(tmp_path: Path, program: Path) -> None:
    outside = {"OPENAI_API_KEY": "sk-hidden", "LLAMA_ARG_TOOLS": "all", "CUDA_VISIBLE_DEVICES": "0"}
    with gateway(tmp_path, program, model("tiny"), **outside) as api:
        assert api.ask()[0] == 200
        inside = Path(f"/proc/{api.only()}/environ").read_bytes().decode().split("\0")
    names = {line.partition("=")[0] for line in inside}
    assert not names & {"OPENAI_API_KEY", "LLAMA_ARG_TOOLS", "LLM_CALL_MODELS", "PYTHONPATH"}
    assert "CUDA_VISIBLE_DEVICES" in names


def test_its_output_becomes_log_lines_without_what_was_asked(api: Gateway) -> None:
    assert api.ask(text="PROMPT-WORD")[0] == 200
    # llama-server quotes a grammar that it cannot read, and a schema, in its own log.
    for secret in (
        {"grammar": "GRAMMAR-WORD foo\nbar"},
        {"messages": [{"role": "user", "content": [{"type": "TYPE-WORD"}]}]},
    ):
        assert api.ask(**secret)[0] == 400
    lines = api.logged("")
    debug = [line for line in lines if line.get("pid") == api.only() and line["level"] == "debug"]
    assert any("model loaded" in line["message"] for line in debug)
    assert any("print_timing" in line["message"] for line in debug)
    for word in ("PROMPT-WORD", "GRAMMAR-WORD", "TYPE-WORD"):
        assert word not in api.service.output


def test_a_client_that_leaves_leaves_nothing_running(api: Gateway) -> None:
    with api.stream() as response:
        response.readline()
    assert api.ask()[0] == 200
    metrics = 'llm_call_local_model_crashes_total{model="local/tiny"}'
    assert api.metric(metrics) == 0
